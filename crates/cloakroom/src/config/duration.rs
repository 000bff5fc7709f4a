//! Durations as people write them: `90s`, `30m`, `1h30m`, `7d`.

use std::time::Duration;

use super::error::{Refusal, quoted};

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Whole numbers, each with its unit. A number without one is refused: nobody knows what it counts.
pub(super) fn parse(text: &str) -> Result<Duration, Refusal> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let why = format!("{text:?} has no unit");
        return Err(Refusal::new(
            why,
            format!("say what it counts: \"{text}s\", \"{text}m\", \"{text}h\" or \"{text}d\""),
        ));
    }
    match millis(text) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(Refusal::new(
            format!("{} is not a duration", quoted(text)),
            "write whole numbers with their units (ms, s, m, h, d), such as \"30m\", \"1h30m\" or \"7d\"",
        )),
    }
}

fn millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after.trim_start();
    }
    (!text.is_empty()).then_some(total)
}

/// As [`parse`] reads it, in the largest unit that is exact.
pub(super) fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    let exact = UNITS.into_iter().find(|(_, factor)| millis.is_multiple_of(u128::from(*factor)) && millis > 0);
    exact.map_or_else(|| "0s".to_owned(), |(unit, factor)| format!("{}{unit}", millis / u128::from(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_exactly_and_prints_the_same() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("1h 30m", 5400)] {
            assert_eq!(parse(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse("1s500ms").unwrap(), Duration::from_millis(1500));
        for text in ["90s", "30m", "25h", "7d", "1500ms", "0s"] {
            let duration = parse(text).unwrap();
            assert_eq!(parse(&format(duration)).unwrap(), duration);
        }
        assert_eq!(format(Duration::from_secs(90)), "90s");
        assert_eq!(format(Duration::from_secs(86_400)), "1d");
    }

    #[test]
    fn what_is_no_exact_duration_is_refused() {
        for text in ["", "30", "soon", "1.5h", "-5m", "5 minutes", "m", "1M", "1y", "99999999999999999999d", "1h30"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
