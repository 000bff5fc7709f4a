//! What holds for every page: what assistive technology needs, and what browsers are told.

use std::collections::HashMap;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use crate::support::{Answer, Framework, Keeping, Shop, on_both_frameworks};

on_both_frameworks!(
    every_page_is_accessible_and_strict,
    what_goes_wrong_has_a_page_that_says_what_to_do,
    files_are_strict_too_and_may_be_cached,
);

/// The tags of this name, with their attributes.
fn tags<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("<{name}");
    let starts = html.match_indices(&open).map(|(at, _)| &html[at + 1..]);
    starts
        .map(|rest| rest.split('>').next().unwrap_or_default())
        .filter(|tag| tag[name.len()..].starts_with([' ', '/']) || tag.len() == name.len())
        .collect()
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

fn check(path: &str, page: &Answer) {
    let html = page.body.as_str();
    let context = format!("{path}:\n{html}");
    assert!(html.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{context}");
    let title = page.text_after("<title>").unwrap();
    assert!(title.ends_with(" · Peg &amp; Hanger") && title.len() > 20, "{context}");
    for (tag, count) in [("h1", 1), ("main", 1), ("header", 1), ("footer", 1), ("title", 1)] {
        assert_eq!(tags(html, tag).len(), count, "<{tag}> in {context}");
    }
    assert!(
        html.contains("<body><a class=\"skip\" href=\"#content\">") && html.contains("id=\"content\""),
        "{context}"
    );
    assert!(html.contains("name=\"viewport\" content=\"width=device-width, initial-scale=1\""), "{context}");

    let mut ids: Vec<_> =
        html.match_indices(" id=\"").map(|(at, mark)| html[at + mark.len()..].split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id occurs twice in {context}");
    let has_id = |id: &str| ids.contains(&Some(id));

    for input in tags(html, "input") {
        if attribute(input, "type") == Some("hidden") {
            continue;
        }
        let id = attribute(input, "id").unwrap_or_else(|| panic!("<{input}> has no id in {context}"));
        assert!(html.contains(&format!("<label for=\"{id}\">")), "<{input}> has no label in {context}");
        let described = attribute(input, "aria-describedby").unwrap_or_default();
        assert!(described.split_whitespace().all(has_id), "<{input}> in {context}");
    }
    for section in tags(html, "section") {
        assert!(attribute(section, "aria-labelledby").is_none_or(has_id), "<{section}> in {context}");
    }
    for form in tags(html, "form") {
        assert_eq!(attribute(form, "method"), Some("post"), "{context}");
        assert!(attribute(form, "action").unwrap().starts_with('/'), "{context}");
    }
    for svg in tags(html, "svg") {
        assert_eq!(attribute(svg, "aria-hidden"), Some("true"), "{context}");
    }
    // The content security policy would drop these, or let nobody use the page without scripts.
    for forbidden in [" style=\"", "<style", " onclick=", "javascript:"] {
        assert!(!html.contains(forbidden), "{forbidden} in {context}");
    }
    check_headers(path, page);
    assert_eq!(page.headers.get(CONTENT_TYPE).unwrap(), "text/html; charset=utf-8", "{path}");
    assert_eq!(page.headers.get(CACHE_CONTROL).unwrap(), "no-store", "{path}");
}

fn check_headers(path: &str, answer: &Answer) {
    let policy = answer.headers.get(CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
    for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(directive), "{path} {policy}");
    }
    assert!(!policy.contains("unsafe"), "{path} {policy}");
    assert_eq!(answer.headers.get(X_CONTENT_TYPE_OPTIONS).unwrap(), "nosniff", "{path}");
    assert_eq!(answer.headers.get(REFERRER_POLICY).unwrap(), "same-origin", "{path}");
}

async fn every_page_is_accessible_and_strict(framework: Framework) {
    for keeping in Keeping::ALL {
        let directory = tempfile::tempdir().unwrap();
        let shop = Shop::open(framework, keeping, directory.path()).await;
        let (visitor, other) = (shop.visitor(), shop.visitor());
        for path in ["/", "/sign-in", "/sign-in?signed_out=everywhere"] {
            check(path, &visitor.get(path).await);
        }
        visitor.add("boots").await;
        check("/ with a cart and a message", &visitor.get("/").await);

        let refused = visitor.submit("/sign-in", "/sign-in", &[("email", "ada")]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body.contains("aria-invalid=\"true\" aria-describedby=\"email-error\""));
        check("/sign-in refused", &refused);
        visitor.submit("/sign-in", "/sign-in", &[("email", "ada@example.org")]).await;
        check("/sign-in/code", &visitor.get("/sign-in/code").await);
        check("a wrong code", &visitor.submit("/sign-in/code", "/sign-in/code", &[("code", "1")]).await);

        visitor.sign_in("ada@example.org").await;
        other.sign_in("ada@example.org").await;
        for path in ["/", "/account", "/account/recovery-code"] {
            check(path, &visitor.get(path).await);
        }
        shop.close().await;
    }
}

async fn what_goes_wrong_has_a_page_that_says_what_to_do(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let visitor = shop.visitor();
    let long = "a".repeat(32 * 1024);
    let table = [
        ("an unknown page", visitor.get("/nothing").await, StatusCode::NOT_FOUND),
        ("a page that takes no forms", visitor.post("/account", &[]).await, StatusCode::METHOD_NOT_ALLOWED),
        ("a form without its fields", visitor.post("/cart", &[]).await, StatusCode::UNPROCESSABLE_ENTITY),
        (
            "a form that is too long",
            visitor.post("/cart", &[("article", &long)]).await,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            "an unknown article",
            visitor.post("/cart", &[("article", "moon"), ("change", "add")]).await,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        ("no code waiting", visitor.post("/sign-in/code", &[("code", "1")]).await, StatusCode::UNPROCESSABLE_ENTITY),
        ("a foreign request", visitor.post_with("/cart", hyper::HeaderMap::new(), &[]).await, StatusCode::FORBIDDEN),
    ];
    for (what, answer, status) in &table {
        assert_eq!(answer.status, *status, "{what}");
        check(what, answer);
    }
    shop.close().await;
}

async fn files_are_strict_too_and_may_be_cached(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Memory, directory.path()).await;
    let visitor = shop.visitor();
    visitor.sign_in("ada@example.org").await;
    for (path, content_type) in
        [("/style.css", "text/css"), ("/countdown.js", "text/javascript"), ("/icon.svg", "image/svg+xml")]
    {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.headers.get(CONTENT_TYPE).unwrap().to_str().unwrap().starts_with(content_type), "{path}");
        assert!(answer.headers.get(CACHE_CONTROL).unwrap().to_str().unwrap().starts_with("public"), "{path}");
        assert!(!answer.headers.contains_key("vary") && !answer.headers.contains_key("set-cookie"), "{path}");
        check_headers(path, &answer);
    }
    shop.close().await;
}

/// The colours of a scheme, by name, as red, green and blue.
fn colours(scheme: &str) -> HashMap<&str, [f64; 3]> {
    let declarations = scheme.split(';').filter_map(|line| line.trim().strip_prefix("--")?.split_once(": #"));
    let channels = |hex: &str| {
        let wide = if hex.len() == 3 { hex.chars().flat_map(|digit| [digit, digit]).collect() } else { hex.to_owned() };
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&wide[at..at + 2], 16).unwrap()) / 255.0)
    };
    declarations.map(|(name, hex)| (name, channels(hex))).collect()
}

/// The contrast ratio of WCAG 2.2.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let linear =
        |channel: f64| if channel <= 0.04045 { channel / 12.92 } else { ((channel + 0.055) / 1.055).powf(2.4) };
    let luminance = |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn text_and_fields_stand_out_in_both_schemes() {
    const TEXT: f64 = 4.5;
    const FIELD: f64 = 3.0;
    let pairs = [
        ("ink", "ground", TEXT),
        ("ink", "paper", TEXT),
        ("muted", "ground", TEXT),
        ("muted", "paper", TEXT),
        ("accent", "ground", TEXT),
        ("accent", "paper", TEXT),
        ("accent", "tint", TEXT),
        ("accent-strong", "tint", TEXT),
        ("muted", "tint", TEXT),
        ("on-accent", "accent", TEXT),
        ("on-accent", "accent-strong", TEXT),
        ("good", "good-tint", TEXT),
        ("bad", "bad-tint", TEXT),
        ("bad", "paper", TEXT),
        ("bad", "ground", TEXT),
        ("paper", "bad", TEXT),
        ("field", "ground", FIELD),
        ("field", "paper", FIELD),
    ];
    let style = include_str!("../../assets/style.css");
    let schemes: Vec<_> = style.split(":root {").skip(1).map(|block| block.split('}').next().unwrap()).collect();
    assert_eq!(schemes.len(), 2, "light and dark");
    for scheme in schemes {
        let colours = colours(scheme);
        for (front, back, least) in pairs {
            let ratio = contrast(colours[front], colours[back]);
            assert!(ratio >= least, "{front} on {back} has a contrast of {ratio:.2} in:{scheme}");
        }
    }
}
