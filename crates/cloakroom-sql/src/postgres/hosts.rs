//! The hosts of a URL, and which of them is asked next for a connection.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// The same database at several hosts, of which one takes writes.
///
/// An attempt to connect begins with the host that gave the last connection, and passes over each that gives none. So
/// does the next attempt when this one is given up: a silent host takes the time of one attempt, not of all.
pub(super) struct Hosts {
    hosts: Vec<Config>,
    /// With which of them to begin, of any number that leaves it as remainder.
    next: AtomicUsize,
    /// Whether each attempt begins with another.
    balanced: bool,
}

/// Goes from host to host, each once.
pub(super) struct Attempt<'a> {
    hosts: &'a Hosts,
    at: usize,
    left: usize,
    connected: bool,
}

impl Hosts {
    pub(super) fn new(config: &Config) -> Self {
        let [names, addresses, ports] =
            [config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len()];
        let count = names.max(addresses);
        let fit = [names, addresses].iter().all(|named| [0, count].contains(named)) && (ports < 2 || ports == count);
        // The driver says what does not fit.
        let hosts = if fit { (0..count).map(|at| only(config, at)).collect() } else { vec![config.clone()] };
        let balanced = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let begin = if balanced { RandomState::new().build_hasher().finish() as usize } else { 0 };
        Self { hosts, next: AtomicUsize::new(begin), balanced }
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(super) fn attempt(&self) -> Attempt<'_> {
        let at =
            if self.balanced { self.next.fetch_add(1, Ordering::Relaxed) } else { self.next.load(Ordering::Relaxed) };
        Attempt { hosts: self, at, left: self.hosts.len(), connected: false }
    }

    /// Unless somebody did, or has begun elsewhere.
    fn pass_over(&self, at: usize) {
        if self.next.load(Ordering::Relaxed) == at {
            self.next.store(at.wrapping_add(1), Ordering::Relaxed);
        }
    }
}

impl Attempt<'_> {
    /// The host to ask now.
    pub(super) fn host(&self) -> &Config {
        &self.hosts.hosts[self.at % self.hosts.hosts.len()]
    }

    /// It gave a connection.
    pub(super) fn succeed(mut self) {
        self.connected = true;
    }

    /// It gave none. Returns whether there is another.
    pub(super) fn pass_over(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            self.hosts.pass_over(self.at);
            self.at = self.at.wrapping_add(1);
        }
        self.left > 0
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.connected {
            self.hosts.pass_over(self.at);
        }
    }
}

/// The same with one of the hosts.
fn only(config: &Config, at: usize) -> Config {
    let mut only = Config::new();
    only.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        only.user(user);
    }
    if let Some(password) = config.get_password() {
        only.password(password);
    }
    if let Some(name) = config.get_dbname() {
        only.dbname(name);
    }
    if let Some(options) = config.get_options() {
        only.options(options);
    }
    if let Some(name) = config.get_application_name() {
        only.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        only.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        only.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        only.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        only.keepalives_retries(retries);
    }
    match config.get_hosts().get(at) {
        Some(Host::Tcp(name)) => {
            only.host(name);
        }
        #[cfg(unix)]
        Some(Host::Unix(path)) => {
            only.host_path(path);
        }
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(at) {
        only.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(at).or(config.get_ports().first()) {
        only.port(*port);
    }
    only
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With all that a URL may say.
    const EVERYTHING: &str = "?user=u&password=p%20w&dbname=d&options=-c%20jit%3Doff&application_name=a&sslmode=require\
        &sslnegotiation=direct&channel_binding=require&load_balance_hosts=random&connect_timeout=7&tcp_user_timeout=8\
        &keepalives=0&keepalives_idle=9&keepalives_interval=10&keepalives_retries=11&target_session_attrs=read-write";

    fn config(hosts: &str, rest: &str) -> Config {
        format!("postgres://{hosts}/{rest}").parse().unwrap()
    }

    fn named(attempt: &Attempt<'_>) -> String {
        format!("{:?}", attempt.host().get_hosts())
    }

    #[test]
    fn one_of_the_hosts_has_all_that_the_url_says() {
        for rest in ["", EVERYTHING] {
            for host in ["one:5433", "", "%2Frun%2Fpostgresql"] {
                let whole = config(host, rest);
                assert!(only(&whole, 0) == whole, "{host} {rest}");
            }
            let with_address = format!("{}hostaddr=10.0.0.1", if rest.is_empty() { "?" } else { "&" });
            let whole = config("one", &format!("{rest}{with_address}"));
            assert!(only(&whole, 0) == whole, "{rest}");
            let hosts = Hosts::new(&config("one:5433,two", rest));
            assert!(hosts.hosts == [config("one:5433", rest), config("two:5432", rest)], "{rest}");
        }
        let hosts = Hosts::new(&config("", "?host=one&host=two&port=5433"));
        assert_eq!(hosts.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_driver() {
        for (hosts, rest) in [("one,two", "?hostaddr=10.0.0.1"), ("one", "?host=two&host=three&port=1,2,3,4,5,6")] {
            let whole = config(hosts, rest);
            assert!(Hosts::new(&whole).hosts == [whole], "{hosts} {rest}");
        }
    }

    #[test]
    fn an_attempt_asks_each_host_once_from_the_one_that_gave_the_last_connection() {
        let hosts = Hosts::new(&config("one,two,three", ""));
        let mut attempt = hosts.attempt();
        assert!(named(&attempt).contains("one") && attempt.pass_over());
        assert!(named(&attempt).contains("two"));
        attempt.succeed();
        for _ in 0..2 {
            let attempt = hosts.attempt();
            assert!(named(&attempt).contains("two"));
            attempt.succeed();
        }
        let mut attempt = hosts.attempt();
        for (name, another) in [("two", true), ("three", true), ("one", false)] {
            assert!(named(&attempt).contains(name));
            assert_eq!(attempt.pass_over(), another);
        }
        drop(attempt);
        assert!(named(&hosts.attempt()).contains("two"), "all were asked, and it comes round");
    }

    #[test]
    fn an_attempt_that_is_given_up_passes_a_host_over_once() {
        let hosts = Hosts::new(&config("one,two,three", ""));
        let together = [hosts.attempt(), hosts.attempt()];
        assert!(together.iter().all(|attempt| named(attempt).contains("one")));
        drop(together);
        assert!(named(&hosts.attempt()).contains("two"));
    }

    #[test]
    fn balanced_attempts_begin_with_one_after_the_other() {
        let hosts = Hosts::new(&config("one,two", "?load_balance_hosts=random"));
        let mut begun: Vec<_> = (0..4)
            .map(|_| {
                let attempt = hosts.attempt();
                let name = named(&attempt);
                attempt.succeed();
                name
            })
            .collect();
        begun.sort();
        assert!(begun[0] == begun[1] && begun[1] != begun[2] && begun[2] == begun[3], "{begun:?}");
    }
}
