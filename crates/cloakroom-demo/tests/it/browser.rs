//! The demo in a real browser: two of them, from signing in to signing out everywhere, with scripts and without.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cloakroom::{Cloakroom, Config, Sources};
use cloakroom_demo::Options;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Framework, Keeping, Shop, on_both_frameworks, signal};

on_both_frameworks!(
    two_browsers_from_sign_in_to_sign_out_everywhere,
    everything_works_without_scripts,
    the_cookie_of_production_is_kept_with_every_guard,
);

/// The two programs, on the search path, unless the variable of the first name says otherwise.
const CHROMIUM: (&str, &str) = ("CHROMIUM", "chromium");
const CHROMEDRIVER: (&str, &str) = ("CHROMEDRIVER", "chromedriver");

fn program((variable, default): (&str, &str)) -> String {
    let name = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let found = if Path::new(&name).is_file() { Some(PathBuf::from(&name)) } else { on_path(&name) };
    let found = found.unwrap_or_else(|| {
        panic!(
            "the browser tests need {name}, on the search path or named in {variable}: \
             on Debian run `apt-get install chromium chromium-driver`"
        )
    });
    found.into_os_string().into_string().unwrap()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// As long as a page may take on a busy machine. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that drives browsers, and leads a process group of its own with them.
///
/// Killed together with them when dropped, also by a panic.
struct Driver {
    process: Child,
    url: String,
    chromium: String,
    profiles: TempDir,
}

impl Driver {
    async fn start() -> Self {
        let (chromium, chromedriver) = (program(CHROMIUM), program(CHROMEDRIVER));
        let mut process = Command::new(&chromedriver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let url = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
                // Somebody must read on, or the driver stops when the pipe is full.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Self { process, url, chromium, profiles: tempfile::tempdir().unwrap() };
            }
            writeln!(said, "{line}").unwrap();
        }
        panic!("{chromedriver} did not start; it said:\n{said}");
    }

    /// A browser with an empty profile.
    async fn browser(&self, name: &str, scripts: bool) -> Browser {
        let profile = self.profiles.path().join(name);
        let arguments = [
            "--headless",
            // The tests run as root in containers, where Chromium's sandbox does not work.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let javascript = if scripts { 1 } else { 2 };
        let options = json!({
            "binary": self.chromium,
            "args": arguments,
            "prefs": { "profile.managed_default_content_settings.javascript": javascript },
        });
        let capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let client = ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&self.url).await;
        Browser { client: client.unwrap_or_else(|error| panic!("{} did not start: {error}", self.chromium)) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(leader) = self.process.id() {
            signal("KILL", &format!("-{leader}"));
        }
    }
}

/// Somebody in front of a browser: knows what is on the page, and waits for it.
struct Browser {
    client: Client,
}

impl Browser {
    async fn open(&self, shop: &Shop, path: &str) {
        self.client.goto(&format!("{}{path}", shop.url)).await.unwrap();
    }

    /// Waits for what the page must show.
    async fn see(&self, css: &str) -> String {
        match self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await {
            Ok(element) => element.text().await.unwrap(),
            Err(error) => {
                let page = self.client.source().await.unwrap();
                panic!("no `{css}` came into view: {error}\n{page}");
            }
        }
    }

    async fn click(&self, css: &str) {
        self.see(css).await;
        self.client.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    async fn fill(&self, css: &str, text: &str) {
        self.see(css).await;
        self.client.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.unwrap().len()
    }

    async fn sign_in(&self, shop: &Shop, email: &str) {
        self.open(shop, "/sign-in").await;
        self.fill("#email", email).await;
        self.click("main form button").await;
        let code = self.see("#the-code").await;
        self.fill("#code", &code).await;
        self.click("main form button").await;
        assert_eq!(self.see(".who strong").await, email);
    }

    /// The one cookie, as the browser keeps it.
    async fn cookie(&self) -> fantoccini::cookies::Cookie<'static> {
        let mut cookies = self.client.get_all_cookies().await.unwrap();
        assert_eq!(cookies.len(), 1, "one cookie and no other");
        cookies.pop().unwrap()
    }

    async fn has_cookie(&self) -> bool {
        !self.client.get_all_cookies().await.unwrap().is_empty()
    }

    /// Whether pages may run scripts. (What the driver runs itself always may.)
    async fn runs_scripts(&self) -> bool {
        let page = "data:text/html,<title>no</title><script>document.title='yes'</script>";
        self.client.goto(page).await.unwrap();
        self.client.title().await.unwrap() == "yes"
    }

    async fn leave(self) {
        self.client.close().await.unwrap();
    }
}

/// The whole way, as two people with the same account go it at two screens.
async fn walk(desk: &Browser, phone: &Browser, shop: &Shop) {
    desk.open(shop, "/").await;
    assert!(!desk.has_cookie().await, "looking around sets no cookie");
    desk.click("button[aria-label='Add Umbrella to the cart']").await;
    assert_eq!(desk.see("[role=status]").await, "Umbrella is in your cart.");
    assert_eq!(desk.see("#count").await, "1");

    desk.sign_in(shop, "ada@example.org").await;
    let cookie = desk.cookie().await;
    assert_eq!(cookie.name(), "id");
    assert_eq!(cookie.http_only(), Some(true));
    assert!(cookie.same_site().is_some_and(|same_site| same_site.is_lax()));
    assert_eq!(cookie.path(), Some("/"));
    assert_eq!(cookie.expires(), None, "ends with the browser");
    assert_ne!(cookie.secure(), Some(true), "the development profile is for plain http");
    desk.open(shop, "/").await;
    assert_eq!(desk.see("#count").await, "1", "the cart comes along");

    phone.sign_in(shop, "ada@example.org").await;
    assert_ne!(phone.cookie().await.value(), cookie.value());
    desk.open(shop, "/account").await;
    assert_eq!(desk.count(".devices li").await, 2);
    assert!(desk.see(".devices .here h2").await.contains("Chrome on Linux This device"));

    desk.click(".devices form button").await;
    assert_eq!(desk.see("[role=status]").await, "That device is signed out.");
    assert_eq!(desk.count(".devices li").await, 1);
    phone.open(shop, "/account").await;
    assert_eq!(phone.see("h1").await, "Sign in", "the revoked device is out at its next step");
    assert!(!phone.has_cookie().await);

    phone.sign_in(shop, "ada@example.org").await;
    desk.open(shop, "/account").await;
    desk.click("form[action='/account/sign-out-everywhere'] button").await;
    assert_eq!(desk.see("[role=status]").await, "You are signed out, here and everywhere else.");
    assert!(!desk.has_cookie().await);
    phone.open(shop, "/account").await;
    assert_eq!(phone.see("h1").await, "Sign in");
    assert!(!phone.has_cookie().await);
}

async fn two_browsers_from_sign_in_to_sign_out_everywhere(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Sqlite, directory.path()).await;
    let driver = Driver::start().await;
    let (desk, phone) = (driver.browser("desk", true).await, driver.browser("phone", true).await);
    assert!(desk.runs_scripts().await && phone.runs_scripts().await);
    walk(&desk, &phone, &shop).await;

    // The script ticks, within the content security policy.
    desk.sign_in(&shop, "ada@example.org").await;
    let text = "return document.querySelector('.countdown time').dataset.seconds = '3';";
    desk.client.execute(text, Vec::new()).await.unwrap();
    let zero = Locator::XPath("//time[@data-seconds][text()='0 seconds']");
    desk.client.wait().at_most(PATIENCE).for_element(zero).await.unwrap();

    desk.leave().await;
    phone.leave().await;
    drop(driver);
    shop.close().await;
}

async fn everything_works_without_scripts(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::open(framework, Keeping::Sqlite, directory.path()).await;
    let driver = Driver::start().await;
    let (desk, phone) = (driver.browser("desk", false).await, driver.browser("phone", false).await);
    assert!(!desk.runs_scripts().await && !phone.runs_scripts().await);

    walk(&desk, &phone, &shop).await;
    desk.leave().await;
    phone.leave().await;
    drop(driver);
    shop.close().await;
}

/// Chromium keeps `Secure` cookies over plain http too, where they come from this machine.
async fn the_cookie_of_production_is_kept_with_every_guard(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let sources = Sources::new().in_directory(directory.path()).with_variable("CLOAKROOM_STORE", "memory");
    let sessions = Cloakroom::from_config(Config::load(&sources).unwrap()).await.unwrap();
    let shop = Shop::with(framework, sessions, Options::default()).await;
    let driver = Driver::start().await;
    let desk = driver.browser("desk", true).await;

    desk.sign_in(&shop, "ada@example.org").await;
    let cookie = desk.cookie().await;
    assert_eq!(cookie.name(), "__Host-id");
    assert_eq!((cookie.secure(), cookie.http_only()), (Some(true), Some(true)));
    assert!(cookie.same_site().is_some_and(|same_site| same_site.is_lax()));
    assert_eq!(cookie.path(), Some("/"));
    assert_eq!(cookie.domain(), Some("127.0.0.1"), "host-only: a wider one begins with a dot");
    assert_eq!((cookie.expires(), cookie.max_age()), (None, None), "ends with the browser");
    let seen = desk.client.execute("return document.cookie", Vec::new()).await.unwrap();
    assert_eq!(seen, json!(""), "no script reads it");

    desk.open(&shop, "/account").await;
    desk.click("form[action='/account/sign-out-everywhere'] button").await;
    assert_eq!(desk.see("[role=status]").await, "You are signed out, here and everywhere else.");
    assert!(!desk.has_cookie().await, "what removes it has the attributes that set it");
    desk.leave().await;
    drop(driver);
    shop.close().await;
}
