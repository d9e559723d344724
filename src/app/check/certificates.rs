//! Warnings about the dates and names of certificates (pure).

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Facts, Warning, hosts};
use crate::{
    config::{Config, Key},
    oci::HostPattern,
    transport::CertificateFacts,
};

/// A certificate that expires within this time is warned of: time enough to renew it.
const SOON: Duration = Duration::from_secs(14 * DAY);
const DAY: u64 = 24 * 60 * 60;

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let mut found = Vec::new();
    if let (Some(tls), Some(certificate)) = (&config.server.tls, &facts.certificate) {
        let key = Key::new("server.tls").field("certificate");
        let path = tls.certificate.display();
        let problem = date_problem(certificate, facts.now, "every client will refuse it");
        found.extend(problem.map(|problem| Warning::new(key.clone(), format!("{path} {problem}"))));
        found.extend(name_problem(&tls.certificate, certificate, facts).map(|problem| Warning::new(key, problem)));
        found.extend(uncovered_hosts(config, certificate));
    }
    for (key, path, certificates) in &facts.authorities {
        found.extend(certificates.iter().enumerate().filter_map(|(index, certificate)| {
            let problem = date_problem(certificate, facts.now, "what it signed is refused")?;
            Some(Warning::new(key.clone(), format!("certificate {} of {} {problem}", index + 1, path.display())))
        }));
    }
    found
}

fn date_problem(certificate: &CertificateFacts, now: SystemTime, consequence: &str) -> Option<String> {
    if let Some(from) = certificate.not_before.filter(|from| *from > now) {
        return Some(format!("is valid from {} on; until then {consequence}", date(from)));
    }
    let until = certificate.not_after?;
    match until.duration_since(now) {
        Err(_) => Some(format!("expired on {}; {consequence}: renew it", date(until))),
        Ok(left) if left < SOON => {
            let days = left.as_secs() / DAY;
            let word = if days == 1 { "day" } else { "days" };
            Some(format!("expires on {}, in {days} {word}: renew it", date(until)))
        }
        Ok(_) => None,
    }
}

/// The day in UTC.
fn date(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// A certificate for no host, or for this machine alone while others connect.
fn name_problem(path: &Path, certificate: &CertificateFacts, facts: &Facts) -> Option<String> {
    let path = path.display();
    if certificate.names.is_empty() {
        return Some(format!(
            "{path} names no host, so every client will refuse it: make one with a subject alternative name"
        ));
    }
    let is_local = |name: &String| {
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    let is_reached_from_elsewhere = facts.listening.iter().any(|address| !address.ip().to_canonical().is_loopback());
    (is_reached_from_elsewhere && certificate.names.iter().all(is_local)).then(|| {
        format!("{path} is for {} alone, and clients of other machines will refuse it", certificate.names.join(", "))
    })
}

/// The hosts of upstreams for which clients refuse the certificate.
fn uncovered_hosts<'a>(config: &'a Config, certificate: &'a CertificateFacts) -> impl Iterator<Item = Warning> + 'a {
    hosts(config).filter_map(|(key, host)| {
        let (HostPattern::Name(name) | HostPattern::NamePort(name, _)) = host else { return None };
        let problem = || {
            format!(
                "clients that use TLS will refuse the certificate for {name}: it is for {}",
                certificate.names.join(", ")
            )
        };
        let is_wrong = !certificate.names.is_empty() && !certificate.covers(name);
        is_wrong.then(|| Warning::new(key, problem()))
    })
}
