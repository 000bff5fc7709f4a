//! What the names of tables, indexes and functions begin with.

use std::fmt;

/// The prefix of every name in the database. The texts of this crate have the default; another is
/// put in its place once, when a store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TablePrefix(String);

impl TablePrefix {
    pub(crate) const DEFAULT: &str = "cloakroom_";
    /// The longest, so that no name exceeds the 63 or 64 bytes that databases allow.
    pub(crate) const MAX_LEN: usize = 40;

    /// Only what needs no quoting anywhere. Says otherwise what a prefix looks like.
    pub(crate) fn new(prefix: &str) -> Result<Self, String> {
        let well_formed = prefix.starts_with(|first: char| first.is_ascii_lowercase())
            && prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && prefix.len() <= Self::MAX_LEN;
        if well_formed {
            Ok(Self(prefix.to_owned()))
        } else {
            Err(format!(
                "a table prefix is a lowercase letter and then lowercase letters, digits and underscores, at most {} \
                 in all, as in `{}`",
                Self::MAX_LEN,
                Self::DEFAULT
            ))
        }
    }

    /// The text with this prefix in place of the default.
    pub(crate) fn apply(&self, sql: &str) -> String {
        sql.replace(Self::DEFAULT, &self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TablePrefix {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for TablePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_needs_no_quoting() {
        for good in ["a", "cloakroom_", "app2_sessions_", &"x".repeat(40)] {
            assert_eq!(TablePrefix::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "_a", "2a", "App_", "a-b", "a b", "ä", "a;", "a'", "a.b", &"x".repeat(41)] {
            assert!(TablePrefix::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_takes_the_place_of_the_default() {
        let prefix = TablePrefix::new("my_cloakroom_").unwrap();
        assert_eq!(
            prefix.apply("SELECT 1 FROM cloakroom_a, cloakroom_b"),
            "SELECT 1 FROM my_cloakroom_a, my_cloakroom_b"
        );
    }
}
