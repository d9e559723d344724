//! The effective configuration as settings: what a file would have to say to lead to it (pure).
//!
//! What must hold: the text of the settings is a file that leads to the same configuration. Secrets are in files, whose names
//! are told and whose content is not. The patterns below have every field, so that a new key does not compile before it is
//! shown.

mod private;

use std::{fmt::Write as _, path::Path, time::Duration};

use serde_json::{Map, Value as Json, json};
use toml::Value;

pub use self::private::private_keys;
use super::{Config, Key, Place, byte_rate, units};
use crate::{
    admin, auth, cache, cluster, push,
    rule::{First, Rule, RuleKeys},
    store, transport,
    upstream::{self, Access, CredentialSource},
    warm::{self, Platforms, Schedule},
};

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    section: Section,
    name: &'static str,
    value: Value,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Top,
    /// `[name]`
    Table(&'static str),
    /// `[[name]]`, and its index.
    Item(&'static str, usize),
    /// `[[upstream.rule]]`: the index of the upstream, and of its rule.
    UpstreamRule(usize, usize),
}

impl Setting {
    /// The full path, such as `upstream[1].urls`.
    pub fn key(&self) -> Key {
        match self.section {
            Section::Top => Key::new(self.name),
            Section::Table(section) => Key::new(section).field(self.name),
            Section::Item(section, index) => Key::new(section).item(index).field(self.name),
            Section::UpstreamRule(upstream, index) => {
                Key::new("upstream").item(upstream).field("rule").item(index).field(self.name)
            }
        }
    }

    /// The value as the file would spell it.
    pub fn text(&self) -> String {
        self.value.to_string()
    }
}

/// All settings, in the order of `config.example.toml`. A key without a value, such as `access.htpasswd` without a file, is
/// left out. `access.access_ttl` and `access_grace` stand with each upstream that they are for.
pub fn settings(config: &Config) -> Vec<Setting> {
    let Config { state_directory, server, admin, cache, access, push, upstreams, rules, cluster, store, warm } = config;
    let mut shown = Settings::default();
    shown.in_section(Section::Top).path("state_directory", state_directory.as_deref());
    shown.server(server);
    shown.admin(admin);
    shown.cache(cache);
    shown.access(access);
    let push::Config { key_file } = push;
    shown.in_section(Section::Table("push")).path("key_file", key_file.as_deref());
    for (index, upstream) in upstreams.iter().enumerate() {
        shown.in_section(Section::Item("upstream", index)).upstream(upstream);
        for (of_upstream, rule) in rules.of_upstream(&upstream.name).iter().enumerate() {
            shown.in_section(Section::UpstreamRule(index, of_upstream)).rule(rule);
        }
    }
    for (index, rule) in rules.general().iter().enumerate() {
        shown.in_section(Section::Item("rule", index)).rule(rule);
    }
    if let Some(cluster) = cluster {
        shown.in_section(Section::Table("cluster")).cluster(cluster);
    }
    if let Some(store) = store {
        shown.in_section(Section::Table("store")).store(store);
    }
    for (index, job) in warm.iter().enumerate() {
        shown.in_section(Section::Item("warm", index)).warm(job);
    }
    shown.settings
}

/// The settings as a file. `place`: where each value comes from, to be told in a comment.
pub fn to_toml(settings: &[Setting], place: Option<&dyn Fn(&Key) -> Place>) -> String {
    let mut text = String::new();
    let mut section = Section::Top;
    for setting in settings {
        if setting.section != section {
            section = setting.section;
            let start = if text.is_empty() { "" } else { "\n" };
            // Writing to a String cannot fail.
            let _ = match section {
                Section::Top => Ok(()),
                Section::Table(name) => writeln!(text, "{start}[{name}]"),
                Section::Item(name, _) => writeln!(text, "{start}[[{name}]]"),
                Section::UpstreamRule(..) => writeln!(text, "{start}[[upstream.rule]]"),
            };
        }
        let _ = write!(text, "{} = {}", setting.name, setting.value);
        if let Some(place) = place {
            let _ = match place(&setting.key()) {
                Place::Default => write!(text, "  # default"),
                place => write!(text, "  # {place}"),
            };
        }
        text.push('\n');
    }
    text
}

/// The settings as JSON, nested as in the file.
pub fn to_json(settings: &[Setting]) -> Json {
    let mut root = Map::new();
    for setting in settings {
        let table = match setting.section {
            Section::Top => Some(&mut root),
            Section::Table(path) => path.split('.').try_fold(&mut root, |table, name| {
                table.entry(name).or_insert_with(|| Json::Object(Map::new())).as_object_mut()
            }),
            Section::Item(name, index) => item(&mut root, name, index),
            Section::UpstreamRule(upstream, index) => {
                item(&mut root, "upstream", upstream).and_then(|upstream| item(upstream, "rule", index))
            }
        };
        if let (Some(table), Ok(value)) = (table, serde_json::to_value(&setting.value)) {
            table.insert(setting.name.to_owned(), value);
        }
    }
    Json::Object(root)
}

/// Where a value comes from, as JSON.
pub fn place_to_json(place: &Place) -> Json {
    match place {
        Place::Default => json!({ "from": "default" }),
        Place::File { file, position } => {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
            json!({
                "from": "file",
                "file": file.display().to_string(),
                "line": position.map(|position| position.line),
                "column": position.map(|position| position.column),
            })
        }
        Place::Variable(name) => json!({ "from": "variable", "name": &**name }),
        Place::Flag(name) => json!({ "from": "flag", "name": &**name }),
        Place::Limit => json!({ "from": "limit" }),
    }
}

fn item<'a>(root: &'a mut Map<String, Json>, name: &str, index: usize) -> Option<&'a mut Map<String, Json>> {
    let items = root.entry(name).or_insert_with(|| Json::Array(Vec::new())).as_array_mut()?;
    if items.len() <= index {
        items.resize_with(index + 1, || Json::Object(Map::new()));
    }
    items.get_mut(index)?.as_object_mut()
}

struct Settings {
    section: Section,
    settings: Vec<Setting>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { section: Section::Top, settings: Vec::new() }
    }
}

impl Settings {
    fn in_section(&mut self, section: Section) -> &mut Self {
        self.section = section;
        self
    }

    fn server(&mut self, config: &transport::Config) {
        let transport::Config {
            listen,
            clear_http,
            max_connections,
            drain_timeout,
            drain_delay,
            trusted_networks,
            allowed_hosts,
            page,
            tls,
            // No key.
            timeouts: _,
        } = config;
        self.in_section(Section::Table("server"));
        self.list("listen", listen);
        self.put("clear_http", *clear_http);
        self.put("max_connections", units::integer(*max_connections as u64));
        self.period("drain_timeout", *drain_timeout);
        self.period("drain_delay", *drain_delay);
        self.list("trusted_networks", trusted_networks);
        self.list("allowed_hosts", allowed_hosts);
        self.put("page", *page);
        if let Some(transport::TlsConfig { certificate, key, client_ca }) = tls {
            self.in_section(Section::Table("server.tls"));
            self.path("certificate", Some(certificate));
            self.path("key", Some(key));
            self.path("client_ca", client_ca.as_deref());
        }
    }

    fn admin(&mut self, config: &admin::Config) {
        let admin::Config { listen, allowed_hosts, socket, socket_group, token_file } = config;
        self.in_section(Section::Table("admin"));
        self.put("listen", listen.to_string());
        self.list("allowed_hosts", allowed_hosts);
        self.path("socket", socket.as_deref());
        self.text("socket_group", socket_group.as_deref());
        self.path("token_file", token_file.as_deref());
    }

    fn cache(&mut self, config: &cache::Config) {
        let cache::Config {
            directory,
            max_size,
            min_free,
            manifest_memory,
            tag_ttl,
            stale_if_error,
            negative_ttl,
            prefetch,
            complete,
            verify_every,
            // No keys.
            reader_window: _,
            max_through: _,
            max_open: _,
        } = config;
        self.in_section(Section::Table("cache"));
        self.path("directory", Some(directory));
        self.put("max_size", units::size(*max_size));
        self.put("min_free", units::size(*min_free));
        self.put("manifest_memory", units::size(*manifest_memory));
        self.period("tag_ttl", *tag_ttl);
        self.period("stale_if_error", *stale_if_error);
        self.period("negative_ttl", *negative_ttl);
        self.put("prefetch", units::integer(*prefetch as u64));
        self.period("verify_every", *verify_every);
        self.in_section(Section::Table("download"));
        self.put("complete", complete.as_str());
    }

    fn access(&mut self, config: &auth::Config) {
        let auth::Config { anonymous, htpasswd, push_users, allow_clear_login, client_rate } = config;
        self.in_section(Section::Table("access"));
        self.put("anonymous", anonymous.as_str());
        self.path("htpasswd", htpasswd.as_deref());
        if let Some(auth::PushUsers { users, certificates }) = push_users {
            let mut names: Vec<&str> = users.iter().map(|user| &**user).collect();
            names.extend(certificates.then_some(auth::ANY_CERTIFICATE));
            self.list("push_users", &names);
        }
        self.put("allow_clear_login", *allow_clear_login);
        self.text("client_rate", client_rate.map(byte_rate::rate).as_deref());
    }

    fn upstream(&mut self, config: &upstream::Config) {
        let upstream::Config {
            name,
            urls,
            aliases,
            hosts,
            default,
            library,
            realms,
            ca,
            credential,
            access,
            connections,
            timeouts: upstream::UpstreamTimeouts { connect, response, idle },
            push,
            max_rate_in,
            max_rate_out,
            store,
            redirect,
        } = config;
        self.put("name", &**name);
        // As people write it, without the path that a URL without one has.
        let spelt = |url: &url::Url| match url.path() {
            "/" => url.as_str().trim_end_matches('/').to_owned(),
            _ => url.to_string(),
        };
        self.list("urls", &urls.iter().map(spelt).collect::<Vec<_>>());
        self.list("aliases", aliases);
        self.list("hosts", hosts);
        self.put("default", *default);
        self.put("library", *library);
        self.list("realms", realms);
        self.path("ca", ca.as_deref());
        match credential {
            CredentialSource::Anonymous => {}
            CredentialSource::Password { username, password_file } => {
                self.text("username", Some(username));
                self.path("password_file", Some(password_file));
            }
            CredentialSource::Helper(helper) => self.text("credential_helper", Some(helper)),
            CredentialSource::DockerConfig(file) => self.path("docker_config", Some(file)),
        }
        match access {
            Access::Shared => self.put("access", "shared"),
            Access::Client { ttl, grace } => {
                self.put("access", "client");
                self.period("access_ttl", *ttl);
                self.period("access_grace", *grace);
            }
        }
        self.put("connections", units::integer(*connections as u64));
        self.period("connect_timeout", *connect);
        self.period("response_timeout", *response);
        self.period("idle_timeout", *idle);
        self.put("push", *push);
        self.put("store", *store);
        self.put("redirect", *redirect);
        self.text("max_rate_in", max_rate_in.map(byte_rate::rate).as_deref());
        self.text("max_rate_out", max_rate_out.map(byte_rate::rate).as_deref());
    }

    fn rule(&mut self, rule: &Rule) {
        let Rule { name, pattern: _, keys } = rule;
        let RuleKeys { tag_ttl, stale_if_error, immutable, freeze, minimum_age, minimum_age_first, deny } = keys;
        self.put("match", &*name.pattern);
        let periods = [("tag_ttl", tag_ttl), ("stale_if_error", stale_if_error), ("minimum_age", minimum_age)];
        for (name, period) in periods {
            period.iter().for_each(|period| self.period(name, *period));
        }
        for (name, flag) in [("immutable", immutable), ("freeze", freeze), ("deny", deny)] {
            flag.iter().for_each(|flag| self.put(name, *flag));
        }
        self.text("minimum_age_first", minimum_age_first.map(First::as_str));
    }

    fn cluster(&mut self, cluster: &cluster::Config) {
        let cluster::Config { peers, advertise, key_file, zone, server_name, ca, timeout } = cluster;
        self.list("peers", peers);
        self.text("advertise", advertise.as_ref().map(ToString::to_string).as_deref());
        self.path("key_file", Some(key_file));
        self.text("zone", zone.as_deref());
        self.text("server_name", server_name.as_deref());
        self.path("ca", ca.as_deref());
        self.period("timeout", *timeout);
    }

    fn store(&mut self, store: &store::Config) {
        let store::Config {
            url,
            endpoint,
            region,
            credentials,
            ca,
            max_size,
            redirect_clients,
            redirect_endpoint,
            times: _,
        } = store;
        self.text("url", Some(&url.to_string()));
        self.text("endpoint", endpoint.as_ref().map(url::Url::as_str));
        self.text("region", region.as_deref());
        match credentials {
            store::Credentials::Environment => self.text("credentials", Some("environment")),
            store::Credentials::Instance => self.text("credentials", Some("instance")),
            store::Credentials::Files { access_key_id, secret_access_key } => {
                self.path("access_key_id_file", Some(access_key_id));
                self.path("secret_access_key_file", Some(secret_access_key));
            }
        }
        self.path("ca", ca.as_deref());
        if let Some(max_size) = max_size {
            self.put("max_size", units::size(*max_size));
        }
        self.list("redirect_clients", redirect_clients);
        self.text("redirect_endpoint", redirect_endpoint.as_ref().map(url::Url::as_str));
    }

    fn warm(&mut self, job: &warm::Config) {
        let warm::Config { images, schedule, platforms, pin } = job;
        self.list("images", images);
        match schedule {
            Schedule::Every(period) => self.period("every", *period),
            Schedule::At(time) => self.put("at", time.to_string()),
        }
        // The default is that of the machine.
        if *platforms != Platforms::default() {
            self.list("platforms", &platforms.texts());
        }
        pin.iter().for_each(|pin| self.period("pin", *pin));
    }

    fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.settings.push(Setting { section: self.section, name, value: value.into() });
    }

    fn text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.put(name, text);
        }
    }

    fn list(&mut self, name: &'static str, items: &[impl ToString]) {
        self.put(name, Value::Array(items.iter().map(|item| Value::String(item.to_string())).collect()));
    }

    fn period(&mut self, name: &'static str, period: Duration) {
        self.put(name, units::period(period));
    }

    /// A path that means the same in any directory.
    fn path(&mut self, name: &'static str, path: Option<&Path>) {
        if let Some(path) = path {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            self.put(name, absolute.to_string_lossy().into_owned());
        }
    }
}

#[cfg(test)]
mod tests;
