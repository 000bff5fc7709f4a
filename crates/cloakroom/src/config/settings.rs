//! The settings there are: one list for reading and for printing, which the guide must match.

/// Their names, as in the file (a dot is a table), and what holds where nobody says otherwise; in the
/// order in which they print.
pub(super) const SETTINGS: [(&str, &str); 34] = [
    ("environment", "development"),
    ("store", "sqlite:.cloakroom/sessions.db"),
    ("prefix", "cloakroom:"),
    ("table_prefix", "cloakroom_"),
    ("connections", "4"),
    ("connect_timeout", "5s"),
    ("store_ca", "of the system"),
    ("durability", "async"),
    ("ledger", "none"),
    ("migrate", "true"),
    ("keys", "one is generated"),
    ("key_file", ".cloakroom/key"),
    ("audience", "cloakroom"),
    ("profile", "standard"),
    ("idle", "of the profile"),
    ("absolute", "of the profile"),
    ("remember", "of the profile"),
    ("touch_interval", "1m"),
    ("max_record", "262144"),
    ("sessions.max", "any number"),
    ("sessions.excess", "reject"),
    ("outage", "fail-closed"),
    ("transport", "cookie"),
    ("response_header", "of the transport"),
    ("cookie.name", "__Host-id"),
    ("cookie.path", "/"),
    ("cookie.domain", "none"),
    ("cookie.same_site", "lax"),
    ("cookie.secure", "true"),
    ("cookie.partitioned", "false"),
    ("danger_insecure_cookie_for_localhost", "false"),
    ("seal", "xchacha20poly1305"),
    ("timeout", "2s"),
    ("sweep_interval", "1m"),
];

const PREFIX: &str = "CLOAKROOM_";

/// The environment variable of a setting.
pub(super) fn variable_of(setting: &str) -> String {
    format!("{PREFIX}{}", setting.to_ascii_uppercase().replace('.', "__"))
}

/// The setting of an environment variable, known or not.
pub(super) fn setting_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    // What Kubernetes puts into every pod where a service happens to be called `cloakroom`.
    let injected = name == "PORT" || name.starts_with("PORT_") || name.starts_with("SERVICE_");
    (!injected).then(|| name.to_ascii_lowercase().replace("__", "."))
}

pub(super) fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|(known, _)| *known == name)
}

/// What somebody who wrote this may have meant.
pub(super) fn suggestion(unknown: &str) -> Option<&'static str> {
    let distance = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        strsim::damerau_levenshtein(unknown, name).min(strsim::damerau_levenshtein(unknown, last))
    };
    let (nearest, _) = SETTINGS.into_iter().min_by_key(|(name, _)| distance(name))?;
    (distance(nearest) <= 1 + unknown.len() / 4).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_lists_the_settings_there_are_with_their_defaults() {
        let guide = include_str!("../../guide/configuration.md");
        let settings = guide.split("\n# ").find(|section| section.starts_with("Settings")).unwrap();
        let rows = settings.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
        let documented: Vec<_> = rows
            .map(|(name, rest)| {
                (name.trim_end_matches('`').to_owned(), rest.split(" | ").next().unwrap_or_default().replace('`', ""))
            })
            .collect();
        let settings: Vec<_> =
            SETTINGS.into_iter().map(|(name, default)| (name.to_owned(), default.to_owned())).collect();
        assert_eq!(documented, settings);
    }

    #[test]
    fn variables_and_settings_name_each_other() {
        for (name, _) in SETTINGS {
            assert_eq!(setting_of(&variable_of(name)).as_deref(), Some(name));
        }
        assert_eq!(setting_of("CLOAKROOM_SERVICE_HOST"), None);
        assert_eq!(setting_of("CLOAKROOM_PORT_80_TCP_ADDR"), None);
        assert_eq!(setting_of("PATH"), None);
    }

    #[test]
    fn misspelt_settings_are_recognised_and_strange_ones_are_not() {
        assert_eq!(suggestion("stroe"), Some("store"));
        assert_eq!(suggestion("key"), Some("keys"));
        assert_eq!(suggestion("cookie.samesite"), Some("cookie.same_site"));
        assert_eq!(suggestion("domain"), Some("cookie.domain"));
        assert_eq!(suggestion("telemetry"), None);
    }
}
