//! Times, money and browsers in words.

use std::time::{Duration, SystemTime};

const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];

/// A duration by its two largest units: `23 hours 59 minutes`.
pub(crate) fn duration(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(_, size)| seconds >= *size) else { return "0 seconds".to_owned() };
    let mut parts = Vec::new();
    for (name, size) in UNITS.iter().skip(first).take(2) {
        let count = seconds / size;
        seconds %= size;
        if count > 0 {
            parts.push(format!("{count} {name}{}", plural(count)));
        }
    }
    parts.join(" ")
}

/// How long ago something was, by its largest unit: `3 minutes ago`.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match UNITS.iter().take(3).find(|(_, size)| seconds >= *size) {
        None => "just now".to_owned(),
        Some((name, size)) => format!("{} {name}{} ago", seconds / size, plural(seconds / size)),
    }
}

/// The ending of a noun that is counted.
pub(crate) const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// An amount in euros.
pub(crate) fn price(cents: u64) -> String {
    format!("€{}.{:02}", cents / 100, cents % 100)
}

/// What somebody may call this browser. A guess: the header says whatever it likes.
pub(crate) fn device(user_agent: Option<&str>) -> String {
    // The order matters: most browsers claim to be several others as well.
    const BROWSERS: [(&str, &str); 8] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ];
    let find = |table: &[(&str, &'static str)]| {
        let user_agent = user_agent?;
        table.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, name)| *name)
    };
    match (find(&BROWSERS), find(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, Some(system)) => format!("A browser on {system}"),
        (None, None) => "An unknown browser".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let words = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(words(0), "0 seconds");
        assert_eq!(words(1), "1 second");
        assert_eq!(words(61), "1 minute 1 second");
        assert_eq!(words(3_600), "1 hour");
        assert_eq!(words(86_399), "23 hours 59 minutes");
        assert_eq!(words(2 * 86_400 + 59), "2 days");
    }

    #[test]
    fn the_past_shows_its_largest_unit_and_the_future_is_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let words = |seconds| ago(now - Duration::from_secs(seconds), now);
        assert_eq!(words(59), "just now");
        assert_eq!(words(60), "1 minute ago");
        assert_eq!(words(7_300), "2 hours ago");
        assert_eq!(words(200_000), "2 days ago");
        assert_eq!(ago(now + Duration::from_secs(5), now), "just now");
    }

    #[test]
    fn prices_have_two_decimals() {
        assert_eq!(price(2_405), "€24.05");
    }

    #[test]
    fn browsers_are_called_what_people_call_them() {
        let table = [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("curl/8.5.0", "curl"),
            ("<script>", "An unknown browser"),
        ];
        for (user_agent, name) in table {
            assert_eq!(device(Some(user_agent)), name);
        }
        assert_eq!(device(None), "An unknown browser");
    }
}
