//! Starts the shop.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use cloakroom::{Backend, Cloakroom, Config, Sources};
use cloakroom_demo::{Framework, GRACE, Options};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

const HELP: &str = "\
The cloakroom demo: a small shop with sessions.

Usage: cargo xtask demo [--framework NAME] [-- OPTIONS]

  --framework NAME   what serves it, axum or actix [default: axum]
  --listen ADDRESS   where to listen; also CLOAKROOM_DEMO_LISTEN [default: 127.0.0.1:3000]
  --origin ORIGIN    another address under which browsers see the shop, such as
                     http://shop.test:3000; may be repeated
  --help             this text

Sessions live in the SQLite file .cloakroom/sessions.db, and outlive a restart. Another place is one
variable away:

  CLOAKROOM_STORE=memory                  gone with the process
  CLOAKROOM_STORE=sqlite:PATH             another file
  CLOAKROOM_STORE=cookie                  sealed in the cookie
  CLOAKROOM_STORE=cookie+sqlite:PATH      the same, and signed-out sessions are remembered in a file
  CLOAKROOM_STORE=redis://HOST/0          Redis or Valkey; redis+sentinel://A,B,C/NAME, redis+cluster://A,B
  CLOAKROOM_STORE=postgres://USER:PASSWORD@HOST/DATABASE
  CLOAKROOM_STORE=mysql://USER:PASSWORD@HOST/DATABASE

On one of the last three, any number of these shops are one. They need the same keys:
CLOAKROOM_KEYS=$(openssl rand -base64 32).

With curl. It says neither where a request comes from nor does it fill in forms, so both are yours:
the Origin header, and the hidden field `csrf_token` once there is a session.

  url=http://127.0.0.1:3000
  shop() { curl -sS -b jar -c jar -H \"Origin: $url\" \"$@\"; }
  field() { grep -o 'name=\"csrf_token\" value=\"[^\"]*' | head -n 1 | cut -d '\"' -f 4; }

  shop -d email=ada@example.org -d \"csrf_token=$(shop $url/sign-in | field)\" $url/sign-in
  page=$(shop $url/sign-in/code)
  code=$(echo \"$page\" | grep -o 'id=\"the-code\">[^<]*' | cut -d '>' -f 2)
  shop --data-urlencode \"code=$code\" -d \"csrf_token=$(echo \"$page\" | field)\" $url/sign-in/code

  csrf=$(shop $url/ | field)                                     # 64 at once, and none is lost:
  seq 64 | xargs -P 64 -I{} curl -sS -b jar -H \"Origin: $url\" -d csrf_token=$csrf \\
      -d article=umbrella -d change=add $url/cart
  shop $url/ | grep -o 'id=\"count\">[^<]*'
";

const LISTEN: &str = "CLOAKROOM_DEMO_LISTEN";

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where even this cannot be written, nobody is left to tell.
            drop(writeln!(io::stderr(), "{error}"));
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let Arguments { framework, listen, mut origins, help } = Arguments::parse(std::env::args().skip(1))?;
    if help {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    }
    let config = Config::load(&sources())?;
    // Before anything is made or opened, lest a second start leaves traces.
    let listener = TcpListener::bind(&listen).await.map_err(|error| unusable(&listen, &error))?;
    let address = listener.local_addr()?;
    let sessions = Cloakroom::from_config(config).await?;
    origins.extend(own_origins(address));
    greet(address, framework, &sessions)?;

    let options = Options { origins, ..Options::default() };
    tokio::select! {
        ended = framework.serve(listener, &sessions, options, stopped()) => ended?,
        () = async { stopped().await; tokio::time::sleep(GRACE).await } => {}
    }
    sessions.close().await;
    Ok(())
}

/// What the operator says, and for development on this machine what nobody has to.
fn sources() -> Sources {
    // No settings of the sessions, whatever their names begin with: where to listen, and where `xtask services` has servers.
    let ours = |name: &OsString| name != LISTEN && !name.as_encoded_bytes().starts_with(b"CLOAKROOM_TEST_");
    let variables = std::env::vars_os().filter(|(name, _)| ours(name));
    variables
        .fold(Sources::new(), |sources, (name, value)| sources.with_variable(name, value))
        // Not every browser keeps a `Secure` cookie that comes over plain http, even from this machine.
        .with_default("danger_insecure_cookie_for_localhost", "true")
}

struct Arguments {
    framework: Framework,
    listen: String,
    origins: Vec<String>,
    help: bool,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let listen = std::env::var(LISTEN).unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
        let mut parsed = Self { framework: Framework::default(), listen, origins: Vec::new(), help: false };
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value; see --help"))
            };
            match name {
                "--help" | "-h" => parsed.help = true,
                "--framework" => parsed.framework = value()?.parse()?,
                "--listen" => parsed.listen = value()?,
                "--origin" => parsed.origins.push(value()?.trim_end_matches('/').to_owned()),
                _ => return Err(format!("there is no argument `{name}`; see --help")),
            }
        }
        Ok(parsed)
    }
}

fn unusable(listen: &str, error: &io::Error) -> String {
    let instead = if error.kind() == io::ErrorKind::AddrInUse {
        "Something listens there already, perhaps another demo. Stop it, or choose another address:"
    } else {
        "Choose an address of this machine, and a port that this user may listen on:"
    };
    format!("cannot listen on {listen}: {error}\n\n{instead}\n  cargo xtask demo -- --listen 127.0.0.1:3001")
}

/// How browsers on this machine see the shop.
fn own_origins(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let local = address.ip().is_loopback() || address.ip().is_unspecified();
    let mut origins = vec![format!("http://{address}")];
    if local {
        origins.extend([format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")]);
    }
    origins.dedup();
    origins
}

fn greet(address: SocketAddr, framework: Framework, sessions: &Cloakroom) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (bold, plain) = if out.is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let kept = if let Backend::Reference(store) = sessions.manager().backend() {
        store.to_string()
    } else {
        "sealed in the cookie".to_owned()
    };
    writeln!(out, "\n  Peg & Hanger is open:  {bold}http://{address}{plain}\n")?;
    writeln!(out, "  Sessions   {kept}")?;
    writeln!(out, "  Served by  {framework}")?;
    for notice in sessions.notices() {
        writeln!(out, "  Note       {notice}")?;
    }
    writeln!(
        out,
        "\n  Fill the cart, then sign in: it comes along.\
         \n  Sign in from a second browser, and sign it out from the first.\
         \n  Stop and start again: you are still signed in.\
         \n  Keep sessions elsewhere:  CLOAKROOM_STORE=cookie cargo xtask demo\
         \n  Serve it by the other framework:  cargo xtask demo --framework actix\
         \n\n  Ctrl-C stops it; --help tells how curl can use it.\n"
    )?;
    out.flush()
}

/// Comes back when somebody asks the process to stop.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    drop(tokio::signal::ctrl_c().await);
}
