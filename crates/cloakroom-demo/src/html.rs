//! The frame of every page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A whole page: the content, and what the page adds to the bar at the top and the lines at the bottom.
pub(crate) fn document(title: &str, header: &Markup, main: &Markup, footer: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Peg & Hanger" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
                script src="/countdown.js" defer {}
            }
            body {
                a .skip href="#content" { "Skip to the content" }
                header .bar {
                    div .wide {
                        a .brand href="/" { (hanger()) span { "Peg & Hanger" } }
                        (header)
                    }
                }
                main #content .wide tabindex="-1" { (main) }
                footer .wide {
                    (footer)
                    p { "A demonstration shop: nothing is sold and nothing is sent." }
                }
            }
        }
    }
}

fn hanger() -> Markup {
    html! {
        svg viewBox="0 0 32 32" width="32" height="32" aria-hidden="true" focusable="false" {
            path d="M12.5 9.5a3.5 3.5 0 1 1 5 3.2c-1 .5-1.5 1.1-1.5 2.1l12 7.7c1 .7.6 2-.6 2H4.6c-1.2 0-1.6-1.3-.6-2l12-7.7"
                fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" {}
        }
    }
}

/// A drawing of an article, of these strokes in a square of 64.
pub(crate) fn drawing(strokes: &'static str) -> Markup {
    html! {
        svg viewBox="0 0 64 64" aria-hidden="true" focusable="false" fill="none" stroke="currentColor"
            stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round" {
            path d=(PreEscaped(strokes)) {}
        }
    }
}
