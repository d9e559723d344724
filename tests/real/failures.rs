//! Broken upstreams in front of real clients: what the person sees, what the log says, and what the metrics say.
//!
//! The tables of `docs/operations.md` have it all; this test compares them, cell by cell, with what it saw. A cell holds
//! words that must occur. `--nocapture` prints everything, to write the tables anew.

mod table;

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use forebay_test_support::real::{
    broken::{Breakage, Broken},
    containerd::Containerd,
    docker::Docker,
    forebay::Forebay,
    podman::Podman,
    turn::Turn,
};

use self::table::Row;

/// Each has upstreams of its own, so that no client's requests open a circuit for another.
const CLIENTS: [&str; 4] = ["docker", "ctr", "podman", "skopeo"];

/// The engines, one of each.
struct Clients {
    docker: Docker,
    containerd: Containerd,
    podman: Podman,
}

impl Clients {
    async fn start(port: u16) -> Self {
        let registries = format!("[[registry]]\nlocation = \"127.0.0.1:{port}\"\ninsecure = true\n");
        let (docker, containerd) = tokio::join!(Docker::start(json!({}), &[], &[]), Containerd::start());
        Self { docker, containerd, podman: Podman::new(&registries) }
    }

    /// What a pull that fails tells.
    async fn pull(&self, client: &str, reference: &str) -> String {
        match client {
            "docker" => self.docker.try_pull(reference).await,
            "ctr" => {
                self.containerd.run(&["images", "pull", "--plain-http", "--snapshotter", "native", reference]).await
            }
            "podman" => self.podman.pull(reference).await,
            _ => {
                let target = format!("dir:{}", self.podman.place(&reference.replace(['/', ':'], "-")).display());
                let source = format!("docker://{reference}");
                self.podman.skopeo(&["copy", "--src-tls-verify=false", &source, &target]).await
            }
        }
        .failed()
    }
}

/// The name of the upstream that is broken so, for one client.
fn upstream(breakage: Breakage, client: &str) -> String {
    format!("{client}.{}.test", breakage.name())
}

async fn forebay_before(broken: &[Broken]) -> Forebay {
    let upstreams = broken.iter().flat_map(|broken| {
        CLIENTS.map(|client| broken.configuration(&upstream(broken.breakage, client), "wrong-password"))
    });
    Forebay::start(&upstreams.collect::<String>(), &[("wrong-password", "wrong")]).await
}

/// What was seen of all pulls.
struct Seen {
    forebay: Forebay,
    /// What the client showed, by what is broken and the client.
    told: HashMap<(&'static str, &'static str), String>,
    log: Vec<Value>,
}

impl Seen {
    /// Each client pulls from each broken upstream.
    async fn by_all() -> Self {
        let broken = join_all(Breakage::ALL.map(Broken::start)).await;
        let forebay = forebay_before(&broken).await;
        let clients = Clients::start(forebay.port).await;
        let pulls = Breakage::ALL.iter().flat_map(|breakage| CLIENTS.map(|client| (*breakage, client)));
        let pulled = join_all(pulls.map(async |(breakage, client)| {
            let reference = format!("127.0.0.1:{}/{}/team/app:1", forebay.port, upstream(breakage, client));
            ((breakage.name(), client), clients.pull(client, &reference).await)
        }));
        let told = pulled.await.into_iter().collect();
        let log = forebay.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { forebay, told, log }
    }

    /// What one client saw that the documents do not say.
    async fn faults(&self, breakage: Breakage, client: &'static str, row: &Row, words: &str) -> Vec<String> {
        let (name, upstream) = (breakage.name(), upstream(breakage, client));
        let [cause, status, chain] = &row.cells[..] else { panic!("{:?}", row.cells) };
        let said = &self.told[&(name, client)];
        let about = self.log.iter().filter(|line| line["upstream"] == *upstream);
        let warnings: Vec<_> = about.clone().filter(|line| line["level"] == "WARN").collect();
        println!("{name} {client}: {said}\n  {warnings:?}");
        let mut faults: Vec<_> = table::missing(words, &upstream, cause, said)
            .map(|word| format!("{name}: {client} shows no {word:?}: {said}"))
            .collect();
        // Whatever is broken, it is not the person's login.
        if said.contains("docker login") {
            faults.push(format!("{name}: {client} asks for a login: {said}"));
        }
        if warnings.iter().filter(|line| line["message"] != "a manifest is wrong").count() > 1 {
            faults.push(format!("{name} {client}: several warnings: {warnings:?}"));
        }
        let tells = |line: &&Value| {
            let error = line["error"].as_str().unwrap_or_default();
            line["cause"] == **cause && table::missing(chain, &upstream, cause, error).count() == 0
        };
        if !warnings.iter().any(tells) {
            faults.push(format!("{name} {client}: no warning of {cause} with {chain}: {warnings:?}"));
        }
        // Where the body alone is broken, a HEAD is answered.
        let is_other = |line: &&Value| {
            line["status"].as_u64() != status.parse().ok() && (line["method"] != "HEAD" || line["status"] != 200)
        };
        let others: Vec<_> = about.filter(|line| line["message"] == "request").filter(is_other).collect();
        if !others.is_empty() {
            faults.push(format!("{name} {client}: other statuses than {status}: {others:?}"));
        }
        let labels = [format!("upstream=\"{upstream}\""), format!("cause=\"{cause}\"")];
        let all = self.forebay.metric("forebay_upstream_errors_total", &[&labels[0]]).await;
        let of_cause = self.forebay.metric("forebay_upstream_errors_total", &[&labels[0], &labels[1]]).await;
        if all < 1.0 || all > of_cause {
            faults.push(format!("{name} {client}: of {all} errors {of_cause} are {cause}"));
        }
        faults
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_say_what_a_broken_upstream_looks_like() {
    let _turn = Turn::of_the_engines().await;
    let seen = Seen::by_all().await;
    let (causes, shown) = (table::causes(), table::shown());
    let mut faults = Vec::new();
    for breakage in Breakage::ALL {
        let row = table::find(&causes, breakage.name());
        for (client, words) in CLIENTS.into_iter().zip(&table::find(&shown, &row.cells[1]).cells) {
            faults.extend(seen.faults(breakage, client, row, words).await);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
