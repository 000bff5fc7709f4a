//! The scripts. Each is atomic on its server and touches the keys of one slot.

use std::sync::LazyLock;

use redis::Cmd;

/// A script, by its hash where the server has it and by its text where it does not.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// The call by hash: a server that does not have it says so and does nothing.
    pub(crate) fn by_hash(&self, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
        call("EVALSHA", &self.hash, keys, arguments)
    }

    /// The call that also leaves the script with the server.
    pub(crate) fn by_text(&self, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
        call("EVAL", self.text, keys, arguments)
    }
}

fn call(command: &str, script: &str, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Cmd {
    let mut cmd = redis::cmd(command);
    cmd.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    cmd
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("scripts/prelude.lua"), $("\n", include_str!(concat!("scripts/", $file))),+))
        });)+
    };
}

// The server makes the functions of a text anew at each call, so the frequent ones have only theirs.
scripts! {
    UPDATE = "update.lua";
    TOUCH = "touch.lua";
    CREATE = "index.lua" "create.lua";
    RENEW = "index.lua" "renew.lua";
    PREPARE = "index.lua" "prepare.lua";
    COMMIT = "index.lua" "commit.lua";
    COMMITTED = "committed.lua";
    FINALIZE = "index.lua" "finalize.lua";
    ABANDON = "index.lua" "abandon.lua";
    DELETE = "index.lua" "delete.lua";
    REVOKE = "index.lua" "revoke.lua";
    LIST = "index.lua" "list.lua";
}
