//! What other sites, stale pages and crafted links try, and do not get.

use futures_util::future::join_all;
use hyper::header::{HeaderName, ORIGIN};
use hyper::{HeaderMap, StatusCode};

use crate::support::{Framework, Keeping, Shop, Visitor, on_both_frameworks};

on_both_frameworks!(
    no_unsafe_route_takes_a_request_of_another_site_even_with_the_right_token,
    no_unsafe_route_takes_a_form_without_the_token_of_this_session,
    what_a_browser_sends_from_our_own_pages_is_taken,
    a_sign_in_leads_to_no_other_site,
    markup_in_what_visitors_say_stays_text,
);

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const UNSAFE_ROUTES: [&str; 8] = [
    "/cart",
    "/sign-in",
    "/sign-in/code",
    "/sign-out",
    "/account/revoke",
    "/account/sign-out-elsewhere",
    "/account/sign-out-everywhere",
    "/account/confirm",
];

/// Fields that each route would accept.
const FIELDS: [(&str, &str); 5] = [
    ("article", "coat"),
    ("change", "add"),
    ("email", "eve@example.org"),
    ("code", "000000"),
    ("handle", "0123456789abcdef"),
];

fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
    of.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
}

/// Whether everything is as it was.
async fn is_untouched(visitor: &Visitor) -> bool {
    visitor.is_signed_in().await && visitor.cart_count().await == 0
}

async fn no_unsafe_route_takes_a_request_of_another_site_even_with_the_right_token(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let visitor = shop.visitor();
    visitor.sign_in("ada@example.org").await;
    let own = shop.url.as_str();
    let foreign = [
        headers(&[]),
        headers(&[(ORIGIN, "https://evil.example")]),
        headers(&[(ORIGIN, "null")]),
        headers(&[(ORIGIN, &own.replace("http:", "https:"))]),
        headers(&[(ORIGIN, &format!("{own}.evil.example"))]),
        headers(&[(FETCH_SITE, "cross-site")]),
        headers(&[(FETCH_SITE, "same-site")]),
        headers(&[(FETCH_SITE, "cross-site"), (ORIGIN, own)]),
    ];
    for path in UNSAFE_ROUTES {
        for headers in &foreign {
            let token = visitor.get("/").await.token().unwrap();
            let fields: Vec<_> = FIELDS.into_iter().chain([("csrf_token", token.as_str())]).collect();
            let answer = visitor.post_with(path, headers.clone(), &fields).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert!(answer.body.contains(&format!("-H 'Origin: {own}'")), "the page says what to do");
        }
    }
    assert!(is_untouched(&visitor).await);
    shop.close().await;
}

async fn no_unsafe_route_takes_a_form_without_the_token_of_this_session(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let (visitor, other) = (shop.visitor(), shop.visitor());
        visitor.add("coat").await;
        let stale = visitor.get("/").await.token().unwrap();
        visitor.submit("/", "/cart", &[("article", "coat"), ("change", "remove")]).await;
        visitor.sign_in("ada@example.org").await;
        other.sign_in("eve@example.org").await;
        let stolen = other.get("/").await.token().unwrap();
        for path in UNSAFE_ROUTES {
            for token in [None, Some(""), Some("nonsense"), Some(stale.as_str()), Some(stolen.as_str())] {
                let fields: Vec<_> = FIELDS.into_iter().chain(token.map(|token| ("csrf_token", token))).collect();
                let answer = visitor.post(path, &fields).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{keeping:?} {path} {token:?}");
                assert!(answer.body.contains("That form is out of date"));
            }
        }
        assert!(is_untouched(&visitor).await, "{keeping:?}");
        shop.close().await;
    }
}

async fn what_a_browser_sends_from_our_own_pages_is_taken(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let visitor = shop.visitor();
    let fields = [("article", "coat"), ("change", "add")];
    for headers in [headers(&[(FETCH_SITE, "same-origin")]), headers(&[(ORIGIN, &shop.url)])] {
        let token = visitor.get("/").await.token();
        let fields: Vec<_> = fields.into_iter().chain(token.as_deref().map(|token| ("csrf_token", token))).collect();
        assert_eq!(visitor.post_with("/cart", headers, &fields).await.status, StatusCode::SEE_OTHER);
    }
    assert_eq!(visitor.cart_count().await, 2);
    shop.close().await;
}

async fn a_sign_in_leads_to_no_other_site(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let attempts =
        ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)"];
    join_all(attempts.map(|next| {
        let visitor = shop.visitor();
        async move {
            let entered = visitor.sign_in_with(&[("email", "ada@example.org"), ("next", next)]).await;
            assert_eq!(entered.location(), Some("/"), "{next}");
        }
    }))
    .await;
    let page = shop.visitor().get("/sign-in?next=//evil.example").await;
    assert!(page.body.contains("name=\"next\" value=\"/\"") && !page.body.contains("evil"));
    let entered = shop.visitor().sign_in_with(&[("email", "ada@example.org"), ("next", "/account")]).await;
    assert_eq!(entered.location(), Some("/account"));
    shop.close().await;
}

async fn markup_in_what_visitors_say_stays_text(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let mut visitor = shop.visitor();
    visitor.user_agent = "<script>alert(1)</script>";
    visitor.sign_in("<script>alert(1)</script>@example.org").await;
    for path in ["/", "/account", "/account/recovery-code"] {
        let page = visitor.get(path).await;
        assert!(!page.body.contains("<script>alert"), "{path}");
        assert!(page.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;@example.org"), "{path}");
    }
    shop.close().await;
}
