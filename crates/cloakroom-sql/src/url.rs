//! What the URL of a database server says: where it is, and options in the query.

use std::fmt;
use std::time::Duration;

/// A URL that cannot be used. Says what to write instead, and never repeats a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A URL taken apart: what comes before the query, and the pairs of the query.
///
/// Each option is taken out once; [`refuse_rest`](Self::refuse_rest) then finds those nobody knows.
#[derive(Clone)]
pub(crate) struct ServerUrl {
    base: String,
    options: Vec<(String, String)>,
}

impl ServerUrl {
    /// `schemes` are without `://`; the first is the one to recommend.
    pub(crate) fn parse(url: &str, schemes: &[&str]) -> Result<Self, UrlError> {
        let recommended = schemes.first().copied().unwrap_or_default();
        let example = format!("{recommended}://user:password@host/database");
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some(scheme) if schemes.contains(&scheme) => {}
            // What is there instead may be a password.
            Some(scheme) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                return Err(UrlError::new(format!("this store has no URLs of the scheme `{scheme}`: write {example}")));
            }
            Some(_) | None => return Err(UrlError::new(format!("this is no URL of a database: write {example}"))),
        }
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut options: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(UrlError::new("the query of the URL is not of the form `?name=value&name=value`"));
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if options.iter().any(|(other, _)| *other == name) {
                return Err(UrlError::new(format!("the URL has the option `{name}` twice")));
            }
            options.push((name, value));
        }
        Ok(Self { base: base.to_owned(), options })
    }

    /// The URL without its query. Holds the password.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The value of an option, which is then gone from here.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.options.iter().position(|(other, _)| other == name)?;
        Some(self.options.swap_remove(place).1)
    }

    /// As `take`, of one of these words.
    pub(crate) fn take_choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, UrlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
                Err(UrlError::new(format!("the option `{name}` of the URL is one of {}", words.join(", "))))
            }
        }
    }

    /// As `take`, of `on` and `off`.
    pub(crate) fn take_switch(&mut self, name: &str) -> Result<Option<bool>, UrlError> {
        self.take_choice(name, &[("on", true), ("off", false), ("true", true), ("false", false)])
    }

    /// As `take`, of a number from 1 on.
    pub(crate) fn take_number(&mut self, name: &str) -> Result<Option<usize>, UrlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            Ok(_) | Err(_) => Err(UrlError::new(format!("the option `{name}` of the URL is a number from 1 on"))),
        }
    }

    /// As `take`, of a duration: `250ms`, `5s`, `2m`, `24h`, or a number of seconds.
    pub(crate) fn take_duration(&mut self, name: &str) -> Result<Option<Duration>, UrlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        duration(&value).filter(|duration| !duration.is_zero()).map(Some).ok_or_else(|| {
            UrlError::new(format!("the option `{name}` of the URL is a duration, as in `250ms`, `5s`, `2m` or `24h`"))
        })
    }

    /// The first option that is left is one that nobody knows.
    pub(crate) fn refuse_rest(&self, known: &[&str]) -> Result<(), UrlError> {
        let Some((unknown, _)) = self.options.first() else { return Ok(()) };
        let distance = |name: &&&str| strsim::damerau_levenshtein(unknown, name);
        let nearest = known.iter().min_by_key(distance).filter(|name| distance(name) <= 1 + name.len() / 3);
        let hint = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        // A name may be a mistyped value, and a secret one.
        let shown = if unknown.len() <= 32 && unknown.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            format!("`{unknown}`")
        } else {
            "one".to_owned()
        };
        Err(UrlError::new(format!("the URL has an unknown option, {shown}{hint} The options are {}", known.join(", "))))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerUrl(..)")
    }
}

fn duration(value: &str) -> Option<Duration> {
    let unit = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..unit].parse().ok()?;
    match &value[unit..] {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" | "min" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
        "d" => number.checked_mul(24 * 60 * 60).map(Duration::from_secs),
        _ => None,
    }
}

/// Undoes `%41`.
pub(crate) fn decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes
            .push(decoded.ok_or_else(|| UrlError::new("the URL has a `%` that two hexadecimal digits do not follow"))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| UrlError::new("the URL holds an escape that is not UTF-8"))
}

/// Writes what must be escaped in the query of a URL as `%41`.
#[cfg(any(test, feature = "postgres"))]
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ServerUrl, UrlError> {
        ServerUrl::parse(url, &["postgres", "postgresql"])
    }

    #[test]
    fn options_come_out_once_and_decoded() {
        let mut url = parse("postgres://u:p%40@h:1/db?ca=%2Fa%20b&timeout=250ms&connections=4&prepared=off").unwrap();
        assert_eq!(url.base(), "postgres://u:p%40@h:1/db");
        assert_eq!(url.take("ca").as_deref(), Some("/a b"));
        assert_eq!(url.take_duration("timeout").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(url.take_number("connections").unwrap(), Some(4));
        assert_eq!(url.take_switch("prepared").unwrap(), Some(false));
        assert_eq!(url.take("ca"), None);
        url.refuse_rest(&[]).unwrap();
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("5", 5), ("5s", 5), ("2m", 120), ("24h", 86_400), ("1d", 86_400)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)));
        }
        for bad in ["", "s", "5 s", "-1s", "1.5s", "5y", "99999999999999999999s", "999999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn errors_say_what_to_write_and_repeat_no_password() {
        let secret = "hunter2";
        for bad in ["hunter2", "hunter2://x", "postgres//u:hunter2@h/d", "mysql://u:hunter2@h/d", "h;hunter2://a"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("postgres://user:password@host/database"), "{error}");
            assert!(bad.starts_with("hunter2://") || !error.contains(secret), "{error}");
        }
        for bad in ["?hunter2", "?a=%h", "?a=%ff", "?a=1&a=2"] {
            let error = parse(&format!("postgres://u:hunter2@h/d{bad}")).unwrap_err().to_string();
            assert!(!error.contains(secret), "{error}");
        }
        let mut url = parse("postgres://h/d?timeout=soon&prepared=maybe&connections=0").unwrap();
        assert!(url.take_duration("timeout").unwrap_err().to_string().contains("`250ms`"));
        assert!(url.take_switch("prepared").unwrap_err().to_string().contains("`off`"));
        assert!(url.take_number("connections").unwrap_err().to_string().contains("from 1 on"));
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest() {
        let url = parse("postgres://h/d?conections=2").unwrap();
        let error = url.refuse_rest(&["timeout", "connections"]).unwrap_err().to_string();
        assert!(error.contains("`conections`; did you mean `connections`?"), "{error}");
        let error = parse("postgres://h/d?qqqqqqqq=2").unwrap().refuse_rest(&["timeout"]).unwrap_err().to_string();
        assert!(error.contains("The options are timeout") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_is_encoded_decodes() {
        for text in ["", "plain", "a b&c=d%e", "ä/ö", "'\"\\"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
    }
}
