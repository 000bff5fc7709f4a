//! The shop: articles, and a cart in the session.

use std::collections::BTreeMap;

use cloakroom::Key;
use http::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;

use crate::html::drawing;
use crate::reply::{Answer, Form};
use crate::visit::Visit;
use crate::{status, words};

/// How many of which article.
type Cart = BTreeMap<String, u64>;

/// Belongs to the session, not to who signs in: it is kept over the sign-in.
const CART: Key<Cart> = Key::new("cart");

/// The most of one article that anybody may order.
const MAX: u64 = 999;

struct Article {
    id: &'static str,
    name: &'static str,
    about: &'static str,
    cents: u64,
    strokes: &'static str,
}

const ARTICLES: &[Article] = &[
    Article {
        id: "coat",
        name: "Wool coat",
        about: "Heavy, lined, with a loop that holds.",
        cents: 28_900,
        strokes: "M25 9l7 6 7-6 11 7 5 19-8 2-3-9v27H20V28l-3 9-8-2 5-19zM32 15v40M37 30h.1M37 38h.1",
    },
    Article {
        id: "umbrella",
        name: "Umbrella",
        about: "Survives the walk from the tram.",
        cents: 3_800,
        strokes: "M8 34a24 24 0 0 1 48 0q-6-6-12 0-6-6-12 0-6-6-12 0-6-6-12 0zM32 10V6M32 34v17a5 5 0 0 1-10 0",
    },
    Article {
        id: "scarf",
        name: "Long scarf",
        about: "Two metres of merino.",
        cents: 4_500,
        strokes: "M17 13q15 11 30 0l3 9q-18 13-36 0zM35 28l3 26h11l-5-29M41 54v5M45 54v5M49 54v5",
    },
    Article {
        id: "beanie",
        name: "Ribbed beanie",
        about: "One size, for most heads.",
        cents: 2_400,
        strokes: "M14 40a18 20 0 0 1 36 0M13 40h38a3 3 0 0 1 3 3v6a3 3 0 0 1-3 3H13a3 3 0 0 1-3-3v-6a3 3 0 0 1 3-3zM32 20a5 5 0 1 0-.1 0zM22 40v12M32 40v12M42 40v12",
    },
    Article {
        id: "mittens",
        name: "Lined mittens",
        about: "Come as a pair, leave as one.",
        cents: 3_200,
        strokes: "M17 55V29c0-17 22-17 22 0v7c2-8 12-7 12 0 0 9-12 11-12 15v4zM17 46h22",
    },
    Article {
        id: "boots",
        name: "Chelsea boots",
        about: "Resoled for life.",
        cents: 16_500,
        strokes: "M20 8h17v25c0 5 18 4 18 15v4H20zM18 52h39v4H18zM26 8v14h6V8M20 46h8",
    },
];

pub(crate) async fn show(visit: Visit) -> Answer {
    let cart = visit.session.get(CART)?.unwrap_or_default();
    let token = visit.token()?;
    let content = html! {
        div .shop {
            section aria-labelledby="articles" {
                h1 #articles { "Shop" }
                p .lead { "For everything that ends up on a hanger." }
                p .to-cart { a href="#cart" { "Go to your cart" } }
                ul .articles { @for article in ARTICLES { li .card { (offer(article, &token)) } } }
            }
            (summary(&cart, &token))
        }
    };
    visit.page("Shop", &content)
}

fn offer(article: &Article, token: &Markup) -> Markup {
    html! {
        div .picture { (drawing(article.strokes)) }
        h2 { (article.name) }
        p .muted { (article.about) }
        form method="post" action="/cart" {
            (token)
            input type="hidden" name="article" value=(article.id);
            span .price { (words::price(article.cents)) }
            button name="change" value="add" aria-label={ "Add " (article.name) " to the cart" } { "Add to cart" }
        }
    }
}

fn summary(cart: &Cart, token: &Markup) -> Markup {
    let lines = || ARTICLES.iter().filter_map(|article| Some((article, *cart.get(article.id)?)));
    let count: u64 = lines().map(|(_, count)| count).sum();
    let total: u64 = lines().map(|(article, count)| article.cents * count).sum();
    html! {
        section .cart .card #cart aria-labelledby="cart-title" {
            h2 #cart-title { "Your cart" }
            @if count == 0 {
                p .muted { "Nothing yet." }
            } @else {
                p .muted { span #count { (count) } " article" (words::plural(count)) }
                ul {
                    @for (article, count) in lines() {
                        li data-article=(article.id) {
                            span .name { (article.name) }
                            form method="post" action="/cart" {
                                (token)
                                input type="hidden" name="article" value=(article.id);
                                button .round name="change" value="remove" aria-label={ "Remove one " (article.name) } { "−" }
                                span .quantity { span .label { "Quantity: " } (count) }
                                button .round name="change" value="add" aria-label={ "Add one " (article.name) } { "+" }
                            }
                            span .price { (words::price(article.cents * count)) }
                        }
                    }
                }
                p .total { span { "Total" } strong { (words::price(total)) } }
            }
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Change {
    article: String,
    change: Kind,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Add,
    Remove,
}

/// `modify` runs again on what another request wrote meanwhile, so any number of parallel requests add up.
pub(crate) async fn change(visit: Visit, Form(form): Form<Change>) -> Answer {
    let Change { article: id, change } = form;
    let Some(article) = ARTICLES.iter().find(|article| article.id == id) else {
        let hint = html! { p { "The shop does not sell that. Nothing was changed." } };
        return Ok(status::page(StatusCode::UNPROCESSABLE_ENTITY, "There is no such article", &hint));
    };
    visit.session.modify(CART, move |cart| {
        let count = cart.remove(&id).unwrap_or_default();
        let changed = match change {
            Kind::Add => (count + 1).min(MAX),
            Kind::Remove => count.saturating_sub(1),
        };
        if changed > 0 {
            cart.insert(id.clone(), changed);
        }
    })?;
    let message = match change {
        Kind::Add => format!("{} is in your cart.", article.name),
        Kind::Remove => format!("One {} less.", article.name),
    };
    visit.redirect("/", "success", message)
}
