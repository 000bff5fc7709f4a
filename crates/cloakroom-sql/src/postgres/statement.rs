//! The statements of the dialect with their parameters' types, and with the prefix of one store.

use tokio_postgres::types::Type;

use crate::dialect::postgres as sql;
use crate::prefix::TablePrefix;

/// What a lane may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Load,
    LoadMany,
    Create,
    Update,
    UpdateMany,
    UpdateLocked,
    Touch,
    TouchLocked,
    CreateLimited,
    Renew,
    Delete,
    Revoke,
    List,
    Scan,
    Explain,
    Sweep,
    Probe,
}

impl Statement {
    pub(crate) const ALL: [Self; 17] = [
        Self::Load,
        Self::LoadMany,
        Self::Create,
        Self::Update,
        Self::UpdateMany,
        Self::UpdateLocked,
        Self::Touch,
        Self::TouchLocked,
        Self::CreateLimited,
        Self::Renew,
        Self::Delete,
        Self::Revoke,
        Self::List,
        Self::Scan,
        Self::Explain,
        Self::Sweep,
        Self::Probe,
    ];

    /// Whether it changes anything.
    pub(crate) const fn writes(self) -> bool {
        match self {
            Self::Load | Self::LoadMany | Self::List | Self::Scan | Self::Explain | Self::Probe => false,
            Self::Create | Self::Update | Self::UpdateMany | Self::UpdateLocked | Self::Touch => true,
            Self::TouchLocked | Self::CreateLimited | Self::Renew | Self::Delete => true,
            Self::Revoke | Self::Sweep => true,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Load => sql::LOAD,
            Self::LoadMany => sql::LOAD_MANY,
            Self::Create => sql::CREATE,
            Self::Update => sql::UPDATE,
            Self::UpdateMany => sql::UPDATE_MANY,
            Self::UpdateLocked => sql::UPDATE_LOCKED,
            Self::Touch => sql::TOUCH,
            Self::TouchLocked => sql::TOUCH_LOCKED,
            Self::CreateLimited => sql::CREATE_LIMITED,
            Self::Renew => sql::RENEW,
            Self::Delete => sql::DELETE,
            Self::Revoke => sql::REVOKE,
            Self::List => sql::LIST,
            Self::Scan => sql::SCAN,
            Self::Explain => sql::EXPLAIN,
            Self::Sweep => sql::SWEEP,
            Self::Probe => sql::PROBE,
        }
    }

    pub(crate) const fn types(self) -> &'static [Type] {
        const BYTES: Type = Type::BYTEA;
        const MANY_BYTES: Type = Type::BYTEA_ARRAY;
        const NUMBER: Type = Type::INT8;
        const MANY_NUMBERS: Type = Type::INT8_ARRAY;
        const TEXT: Type = Type::TEXT;
        const MANY_TEXTS: Type = Type::TEXT_ARRAY;
        const SWITCH: Type = Type::BOOL;
        const LOAD: &[Type] = &[BYTES, NUMBER];
        const LOAD_MANY: &[Type] = &[MANY_BYTES, NUMBER];
        const CREATE: &[Type] =
            &[MANY_BYTES, MANY_BYTES, MANY_TEXTS, MANY_NUMBERS, MANY_NUMBERS, MANY_NUMBERS, MANY_NUMBERS, MANY_BYTES];
        const UPDATE: &[Type] = &[BYTES, NUMBER, NUMBER, NUMBER, NUMBER, BYTES, BYTES, NUMBER, TEXT, NUMBER];
        const UPDATE_MANY: &[Type] = &[
            MANY_BYTES,
            MANY_NUMBERS,
            MANY_NUMBERS,
            MANY_NUMBERS,
            MANY_NUMBERS,
            MANY_BYTES,
            MANY_BYTES,
            MANY_NUMBERS,
            MANY_TEXTS,
            NUMBER,
        ];
        const TOUCH: &[Type] = &[MANY_BYTES, MANY_NUMBERS, MANY_NUMBERS, NUMBER];
        const CREATE_LIMITED: &[Type] =
            &[BYTES, BYTES, TEXT, NUMBER, NUMBER, NUMBER, NUMBER, BYTES, NUMBER, SWITCH, NUMBER];
        const RENEW: &[Type] =
            &[BYTES, NUMBER, BYTES, BYTES, TEXT, NUMBER, NUMBER, NUMBER, NUMBER, BYTES, NUMBER, SWITCH, NUMBER];
        const DELETE: &[Type] = &[BYTES, NUMBER, NUMBER];
        const REVOKE: &[Type] = &[TEXT, BYTES, BYTES, NUMBER];
        const LIST: &[Type] = &[TEXT, NUMBER, BYTES, NUMBER, NUMBER];
        const SCAN: &[Type] = &[BYTES, NUMBER, NUMBER];
        const EXPLAIN: &[Type] = &[BYTES, NUMBER];
        const SWEEP: &[Type] = &[NUMBER, NUMBER, NUMBER, NUMBER, NUMBER];
        match self {
            Self::Load => LOAD,
            Self::LoadMany => LOAD_MANY,
            Self::Create => CREATE,
            Self::Update => UPDATE,
            Self::UpdateMany | Self::UpdateLocked => UPDATE_MANY,
            Self::Touch | Self::TouchLocked => TOUCH,
            Self::CreateLimited => CREATE_LIMITED,
            Self::Renew => RENEW,
            Self::Delete => DELETE,
            Self::Revoke => REVOKE,
            Self::List => LIST,
            Self::Scan => SCAN,
            Self::Explain => EXPLAIN,
            Self::Sweep => SWEEP,
            Self::Probe => &[],
        }
    }
}

/// All statements, for the tables of one prefix.
#[derive(Debug)]
pub(crate) struct Texts([String; Statement::ALL.len()]);

impl Texts {
    pub(crate) fn new(prefix: &TablePrefix) -> Self {
        Self(Statement::ALL.map(|statement| prefix.apply(statement.text())))
    }

    pub(crate) fn of(&self, statement: Statement) -> &str {
        &self.0[statement as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_at_its_place() {
        let texts = Texts::new(&TablePrefix::new("other_").unwrap());
        for (place, statement) in Statement::ALL.into_iter().enumerate() {
            assert_eq!(place, statement as usize);
            let text = texts.of(statement);
            assert_eq!(text, statement.text().replace("cloakroom_", "other_"));
            let parameters = statement.types().len();
            assert!(parameters == 0 || text.contains(&format!("${parameters}")), "{text}");
            assert!(!text.contains(&format!("${}", parameters + 1)), "{text}");
        }
    }
}
