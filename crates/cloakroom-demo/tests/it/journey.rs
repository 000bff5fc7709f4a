//! From the first look to signing out everywhere, on every backend.

use std::sync::Arc;
use std::time::Duration;

use cloakroom::{
    Backend, Cloakroom, CookieSettings, KeyRing, Manager, MemoryStore, OsRandom, SecretKey, SessionStore,
    StoreErrorKind,
};
use cloakroom_core::Verb;
use cloakroom_demo::Options;
use cloakroom_testkit::{Fault, FaultyStore, ManualClock};
use futures_util::future::join_all;
use hyper::StatusCode;
use hyper::header::{RETRY_AFTER, SET_COOKIE, VARY};

use crate::support::{Framework, Keeping, Shop, on_both_frameworks};

on_both_frameworks!(
    looking_around_creates_no_session,
    a_visitor_signs_in_with_the_code_and_keeps_the_cart,
    of_64_parallel_additions_none_is_lost,
    a_sealed_cookie_counts_what_comes_one_after_another,
    a_device_that_is_revoked_is_out_and_the_others_stay,
    signing_out_elsewhere_and_everywhere_ends_what_it_says,
    a_sealed_cookie_says_what_cannot_be_done,
    a_restart_keeps_sessions_and_carts,
    being_remembered_makes_the_cookie_outlive_the_browser,
    of_parallel_attempts_with_the_right_code_one_signs_in,
    wrong_codes_run_out_and_a_new_code_brings_no_new_tries,
    the_recovery_code_asks_for_a_new_code_once_the_sign_in_is_old,
    a_code_and_a_session_end_by_themselves,
    an_outage_has_a_page_and_signs_nobody_out,
);

const CHROME: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

async fn looking_around_creates_no_session(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let visitor = shop.visitor();
        for path in ["/", "/sign-in", "/sign-in/code", "/account", "/session.json", "/nothing"] {
            let answer = visitor.get(path).await;
            assert!(!answer.headers.contains_key(SET_COOKIE), "{keeping:?} {path}");
            assert_eq!(answer.token(), None, "{keeping:?} {path}");
        }
        shop.close().await;
    }
}

async fn a_visitor_signs_in_with_the_code_and_keeps_the_cart(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let visitor = shop.visitor();

        let added = visitor.add("umbrella").await;
        assert_eq!((added.status, added.location()), (StatusCode::SEE_OTHER, Some("/")), "{keeping:?}");
        let anonymous = visitor.cookie().unwrap();
        let page = visitor.get("/").await;
        assert!(page.body.contains("role=\"status\">Umbrella is in your cart."), "{keeping:?}");
        assert!(page.body.contains("Your cart is kept for "), "{keeping:?}");
        assert!(!visitor.get("/").await.body.contains("role=\"status\""), "a message is read once, {keeping:?}");

        let entered = visitor.sign_in_with(&[("email", "Ada@Example.org"), ("next", "/")]).await;
        assert_eq!((entered.status, entered.location()), (StatusCode::SEE_OTHER, Some("/")), "{keeping:?}");
        let cookie = entered.headers.get(SET_COOKIE).unwrap().to_str().unwrap();
        assert!(cookie.starts_with("id="), "{keeping:?} {cookie}");
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax") && cookie.contains("; Path=/"));
        assert!(!cookie.contains("Max-Age") && !cookie.contains("Expires") && !cookie.contains("Domain"));
        assert_ne!(visitor.cookie().unwrap(), anonymous, "a sign-in changes the token");

        let page = visitor.get("/").await;
        assert_eq!(page.headers.get(VARY).unwrap(), "Cookie");
        assert!(page.body.contains("Welcome, ada@example.org."), "{keeping:?}");
        assert!(page.body.contains("<strong>ada@example.org</strong>"), "{keeping:?}");
        assert!(page.body.contains("You will be signed out in <time role=\"timer\""), "{keeping:?}");
        assert_eq!(visitor.cart_count().await, 1, "{keeping:?}");
        assert!(visitor.get("/session.json").await.body.contains("\"principal\":\"ada@example.org\""));

        // The token from before the sign-in is dead, wherever the session lives.
        let planted = shop.visitor();
        planted.set_cookie(Some(anonymous));
        assert!(!planted.is_signed_in().await, "{keeping:?}");

        let copy = shop.visitor();
        copy.set_cookie(visitor.cookie());
        assert!(copy.is_signed_in().await, "{keeping:?}");
        let out = visitor.submit("/", "/sign-out", &[]).await;
        assert_eq!(out.location(), Some("/sign-in?signed_out=here"), "{keeping:?}");
        assert_eq!(visitor.cookie(), None, "{keeping:?}");
        assert!(!copy.is_signed_in().await, "a copy of the cookie outlived the sign-out, {keeping:?}");
        assert!(visitor.get("/sign-in?signed_out=here").await.body.contains("You are signed out."));
        shop.close().await;
    }
}

async fn of_64_parallel_additions_none_is_lost(framework: Framework) {
    for keeping in [Keeping::Memory, Keeping::Sqlite] {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let visitor = shop.visitor();
        visitor.sign_in("ada@example.org").await;
        let token = visitor.get("/").await.token().unwrap();
        let fields = [("csrf_token", token.as_str()), ("article", "umbrella"), ("change", "add")];
        for answer in join_all((0..64).map(|_| visitor.post("/cart", &fields))).await {
            assert_eq!(answer.status, StatusCode::SEE_OTHER, "{keeping:?} {}", answer.body);
        }
        assert!(visitor.get("/").await.body.contains("Umbrella is in your cart. (64 times)"), "{keeping:?}");
        assert_eq!(visitor.cart_count().await, 64, "{keeping:?}");
        shop.close().await;
    }
}

async fn a_sealed_cookie_counts_what_comes_one_after_another(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Cookie, directory.path()).await;
    let visitor = shop.visitor();
    for _ in 0..8 {
        visitor.add("umbrella").await;
    }
    assert_eq!(visitor.cart_count().await, 8);
    assert!(visitor.get("/").await.body.contains("Of parallel changes the browser keeps the last one."));
    shop.close().await;
}

async fn a_device_that_is_revoked_is_out_and_the_others_stay(framework: Framework) {
    for keeping in [Keeping::Memory, Keeping::Sqlite] {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let (desk, mut phone, stranger) = (shop.visitor(), shop.visitor(), shop.visitor());
        phone.user_agent = CHROME;
        desk.sign_in("ada@example.org").await;
        phone.sign_in("ada@example.org").await;
        stranger.sign_in("eve@example.org").await;

        let page = desk.get("/account").await;
        assert!(page.body.contains("Firefox on Linux") && page.body.contains("Chrome on Windows"), "{keeping:?}");
        let devices = page.devices();
        assert_eq!(devices.iter().map(|(_, own)| *own).collect::<Vec<_>>(), [true, false], "{keeping:?}");
        let (handle, _) = &devices[1];

        // Somebody else's device is as good as none.
        stranger.submit("/account", "/account/revoke", &[("handle", handle)]).await;
        assert!(phone.is_signed_in().await, "{keeping:?}");

        let revoked = desk.submit("/account", "/account/revoke", &[("handle", handle)]).await;
        assert_eq!(revoked.location(), Some("/account"), "{keeping:?}");
        let page = desk.get("/account").await;
        assert!(page.body.contains("That device is signed out."), "{keeping:?}");
        assert_eq!(page.devices().len(), 1, "{keeping:?}");
        let answer = phone.get("/account").await;
        assert_eq!(answer.location(), Some("/sign-in?next=/account"), "{keeping:?}");
        assert_eq!(phone.cookie(), None, "{keeping:?}");

        desk.submit("/account", "/account/revoke", &[("handle", handle)]).await;
        assert!(desk.get("/account").await.body.contains("That device was signed out already."), "{keeping:?}");
        desk.submit("/account", "/account/revoke", &[("handle", "nonsense")]).await;
        assert!(desk.get("/account").await.body.contains("There is no such device."), "{keeping:?}");
        shop.close().await;
    }
}

async fn signing_out_elsewhere_and_everywhere_ends_what_it_says(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let (desk, phone, stranger) = (shop.visitor(), shop.visitor(), shop.visitor());
        stranger.sign_in("eve@example.org").await;
        for visitor in [&desk, &phone] {
            visitor.sign_in("ada@example.org").await;
        }
        desk.submit("/account", "/account/sign-out-elsewhere", &[]).await;
        assert!(desk.get("/account").await.body.contains("You are signed out everywhere else."), "{keeping:?}");
        assert!(!phone.is_signed_in().await, "{keeping:?}");

        phone.sign_in("ada@example.org").await;
        assert!(phone.is_signed_in().await, "{keeping:?}");
        let copy = shop.visitor();
        copy.set_cookie(desk.cookie());
        let out = desk.submit("/account", "/account/sign-out-everywhere", &[]).await;
        assert_eq!(out.location(), Some("/sign-in?signed_out=everywhere"), "{keeping:?}");
        for (visitor, who) in [(&desk, "desk"), (&phone, "phone"), (&copy, "copy")] {
            assert!(!visitor.is_signed_in().await, "{who} {keeping:?}");
        }
        assert!(stranger.is_signed_in().await, "{keeping:?}");
        shop.close().await;
    }
}

async fn a_sealed_cookie_says_what_cannot_be_done(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Cookie, directory.path()).await;
    let visitor = shop.visitor();
    visitor.sign_in("ada@example.org").await;
    let page = visitor.get("/account").await;
    assert!(page.body.contains("There is no list here"));
    assert!(page.devices().is_empty());
    visitor.submit("/account", "/account/revoke", &[("handle", "0123456789abcdef")]).await;
    assert!(visitor.get("/account").await.body.contains("Sessions that travel in the cookie cannot do that."));
    assert!(visitor.is_signed_in().await);
    shop.close().await;
}

async fn a_restart_keeps_sessions_and_carts(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let first = Shop::open(framework, Keeping::Sqlite, directory.path()).await;
    let visitor = first.visitor();
    visitor.add("coat").await;
    visitor.sign_in("ada@example.org").await;
    first.close().await;

    let second = Shop::open(framework, Keeping::Sqlite, directory.path()).await;
    let returning = second.visitor();
    returning.set_cookie(visitor.cookie());
    assert!(returning.is_signed_in().await);
    assert_eq!(returning.cart_count().await, 1);
    second.close().await;
}

async fn being_remembered_makes_the_cookie_outlive_the_browser(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let entered = shop.visitor().sign_in_with(&[("email", "ada@example.org"), ("remember", "yes")]).await;
        let cookie = entered.headers.get(SET_COOKIE).unwrap().to_str().unwrap();
        let (_, max_age) = cookie.split_once("Max-Age=").unwrap();
        assert_eq!(max_age.split(';').next().unwrap(), "2592000", "{keeping:?}");
        shop.close().await;
    }
}

async fn of_parallel_attempts_with_the_right_code_one_signs_in(framework: Framework) {
    for keeping in [Keeping::Memory, Keeping::Sqlite] {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let visitor = shop.visitor();
        visitor.submit("/sign-in", "/sign-in", &[("email", "ada@example.org")]).await;
        let page = visitor.get("/sign-in/code").await;
        let (code, token) = (page.code(), page.token().unwrap());
        let tabs: Vec<_> = (0..16)
            .map(|_| {
                let tab = shop.visitor();
                tab.set_cookie(visitor.cookie());
                tab
            })
            .collect();
        let fields = [("csrf_token", token.as_str()), ("code", code.as_str())];
        let answers = join_all(tabs.iter().map(|tab| tab.post("/sign-in/code", &fields))).await;
        let successes = answers.iter().filter(|answer| answer.status == StatusCode::SEE_OTHER).count();
        assert_eq!(successes, 1, "{keeping:?}");
        shop.close().await;
    }
}

async fn wrong_codes_run_out_and_a_new_code_brings_no_new_tries(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let visitor = shop.visitor();
        visitor.submit("/sign-in", "/sign-in", &[("email", "ada@example.org")]).await;
        let code = visitor.get("/sign-in/code").await.code();
        let wrong = if code == "000 000" { "000 001" } else { "000 000" };
        for left in ["4 more tries", "3 more tries", "2 more tries", "1 more try"] {
            let answer = visitor.submit("/sign-in/code", "/sign-in/code", &[("code", wrong)]).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{keeping:?}");
            assert!(answer.body.contains(&format!("You have {left}.")), "{keeping:?} {left}");
        }
        for code in [wrong, code.as_str()] {
            let answer = visitor.submit("/sign-in/code", "/sign-in/code", &[("code", code)]).await;
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{keeping:?}");
        }
        let answer = visitor.submit("/sign-in", "/sign-in", &[("email", "ada@example.org")]).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{keeping:?}");
        assert!(!visitor.is_signed_in().await, "{keeping:?}");
        shop.close().await;
    }
}

/// A shop with sessions in this store, and time in the test's hands.
async fn shop_by(framework: Framework, clock: &Arc<ManualClock>, store: Arc<dyn SessionStore>) -> Shop {
    let keys = KeyRing::new("demo", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    let manager = Manager::builder(Backend::store(store), keys)
        .cookie(CookieSettings::danger_insecure_for_localhost())
        .clock(Arc::<ManualClock>::clone(clock))
        .build();
    let options = Options { clock: Arc::<ManualClock>::clone(clock), ..Options::default() };
    Shop::with(framework, Cloakroom::new(manager.unwrap()), options).await
}

fn memory_by(clock: &Arc<ManualClock>) -> Arc<dyn SessionStore> {
    Arc::new(MemoryStore::new().with_clock(Arc::<ManualClock>::clone(clock)))
}

async fn the_recovery_code_asks_for_a_new_code_once_the_sign_in_is_old(framework: Framework) {
    let clock = Arc::new(ManualClock::new());
    let shop = shop_by(framework, &clock, memory_by(&clock)).await;
    let visitor = shop.visitor();
    visitor.sign_in("ada@example.org").await;
    assert!(visitor.get("/account/recovery-code").await.body.contains("id=\"recovery-code\""));

    clock.advance(Duration::from_secs(5 * 60 + 1));
    let page = visitor.get("/account/recovery-code").await;
    assert!(page.body.contains("Is it still you?") && !page.body.contains("id=\"recovery-code\""));
    let before = visitor.cookie();
    let sent = visitor.submit("/account/recovery-code", "/account/confirm", &[]).await;
    assert_eq!(sent.location(), Some("/sign-in/code"));
    let code = visitor.get("/sign-in/code").await.code();
    let entered = visitor.submit("/sign-in/code", "/sign-in/code", &[("code", &code)]).await;
    assert_eq!(entered.location(), Some("/account/recovery-code"));
    assert_ne!(visitor.cookie(), before, "a step-up changes the token");
    assert!(visitor.get("/account/recovery-code").await.body.contains("id=\"recovery-code\""));
    shop.close().await;
}

async fn a_code_and_a_session_end_by_themselves(framework: Framework) {
    let clock = Arc::new(ManualClock::new());
    let shop = shop_by(framework, &clock, memory_by(&clock)).await;
    let visitor = shop.visitor();
    visitor.submit("/sign-in", "/sign-in", &[("email", "ada@example.org")]).await;
    let page = visitor.get("/sign-in/code").await;
    let (code, token) = (page.code(), page.token().unwrap());
    clock.advance(Duration::from_secs(10 * 60));
    let late = visitor.post("/sign-in/code", &[("csrf_token", &token), ("code", &code)]).await;
    assert!(late.body.contains("There is no code waiting"), "{}", late.body);

    visitor.sign_in("ada@example.org").await;
    clock.advance(Duration::from_secs(23 * 60 * 60));
    // Polling is no activity: it does not keep anybody signed in.
    assert!(visitor.get("/session.json").await.body.contains("\"expires_in\":3600"));
    clock.advance(Duration::from_secs(60 * 60));
    assert!(visitor.get("/session.json").await.body.contains("\"principal\":null"));
    assert!(!visitor.is_signed_in().await);
    shop.close().await;
}

async fn an_outage_has_a_page_and_signs_nobody_out(framework: Framework) {
    let clock = Arc::new(ManualClock::new());
    let store = Arc::new(FaultyStore::new(memory_by(&clock)));
    let shop = shop_by(framework, &clock, Arc::<FaultyStore>::clone(&store)).await;
    let visitor = shop.visitor();
    visitor.sign_in("ada@example.org").await;
    let token = visitor.get("/").await.token().unwrap();

    store.once(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let unread = visitor.get("/account").await;
    store.once(Verb::Update, Fault::FailBefore(StoreErrorKind::Unavailable));
    let unwritten = visitor.post("/cart", &[("csrf_token", &token), ("article", "coat"), ("change", "add")]).await;
    for answer in [&unread, &unwritten] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers.get(RETRY_AFTER).unwrap(), "5");
        assert!(answer.body.contains("The shop is out of breath") && !answer.body.contains("ada@"));
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    assert!(visitor.is_signed_in().await);
    assert_eq!(visitor.cart_count().await, 0, "what could not be written is not there");
    shop.close().await;
}
