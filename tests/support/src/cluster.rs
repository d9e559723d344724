//! Several mirrors that are peers of one another.
//!
//! ```ignore
//! let cluster = Cluster::of(&registry, 3).await;              // each knows all
//! let answer = cluster.node(0).get("/v2/team/app/blobs/…").await;
//! let cluster = Cluster::build(&registry, &[&[0, 1], &[1]]).start().await;   // node 0 sees both, node 1 itself alone
//! ```

use std::net::TcpListener;

use forebay::transport::TlsConfig;

use super::{
    fake_registry::FakeRegistry,
    mirror::{Builder, Mirror, UPSTREAM},
    test_ca::TestCa,
};

/// The key of all clusters of the tests.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// No machine of tests is as slow as this, so that no peer counts as dead that is not.
const TIMEOUT: &str = "timeout = \"1m\"\n";

/// Mirrors that are peers.
pub struct Cluster {
    nodes: Vec<Mirror>,
}

/// A cluster to be started.
pub struct ClusterBuilder {
    nodes: Vec<(TcpListener, Builder)>,
}

impl Cluster {
    /// So many nodes, each of which sees all.
    pub async fn of(registry: &FakeRegistry, count: usize) -> Self {
        Self::build(registry, &vec![(0..count).collect::<Vec<_>>(); count]).start().await
    }

    /// One node for each view: the nodes that it sees.
    pub fn build(registry: &FakeRegistry, views: &[Vec<usize>]) -> ClusterBuilder {
        let upstream =
            format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\n", registry.url());
        Self::build_with(&upstream, views)
    }

    /// The same, of these upstreams.
    pub fn build_with(upstreams: &str, views: &[Vec<usize>]) -> ClusterBuilder {
        Self::build_over("http", upstreams, views)
    }

    /// So many nodes, each of which sees all and asks the others over TLS.
    pub fn build_tls(upstreams: &str, count: usize) -> ClusterBuilder {
        let (ca, views) = (TestCa::new(), vec![(0..count).collect::<Vec<_>>(); count]);
        let pem = std::fs::read(ca.path()).unwrap();
        let mut builder = Self::build_over("https", upstreams, &views);
        let with_tls = |(at, node): (TcpListener, Builder)| {
            let (certificate, key) = ca.issue(&["127.0.0.1"]);
            let file = |name: &str, content: &[u8]| {
                let path = node.directory().join(name);
                std::fs::write(&path, content).unwrap();
                path
            };
            let cluster_ca = file("cluster-ca.pem", &pem);
            let (certificate, key) =
                (file("tls.crt", certificate.pem().as_bytes()), file("tls.key", key.serialize_pem().as_bytes()));
            let node = node.config(|config| {
                config.server.tls = Some(TlsConfig { certificate, key, client_ca: None });
                config.cluster.as_mut().unwrap().ca = Some(cluster_ca);
            });
            (at, node)
        };
        builder.nodes = builder.nodes.into_iter().map(with_tls).collect();
        builder
    }

    fn build_over(scheme: &str, upstreams: &str, views: &[Vec<usize>]) -> ClusterBuilder {
        let listeners: Vec<TcpListener> = views.iter().map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let urls: Vec<String> =
            listeners.iter().map(|listener| format!("{scheme}://{}", listener.local_addr().unwrap())).collect();
        let builders = views.iter().zip(&urls).map(|(view, own)| {
            let peers: Vec<&String> = view.iter().map(|index| &urls[*index]).collect();
            // A node that does not see itself is no member.
            let advertise = if peers.contains(&own) { format!("advertise = \"{own}\"\n") } else { String::new() };
            let cluster = format!("[cluster]\npeers = {peers:?}\n{advertise}key_file = \"cluster.key\"\n{TIMEOUT}");
            let builder = Mirror::parse(&format!("{upstreams}{cluster}"));
            std::fs::write(builder.directory().join("cluster.key"), KEY).unwrap();
            builder
        });
        let builders: Vec<Builder> = builders.collect();
        ClusterBuilder { nodes: listeners.into_iter().zip(builders).collect() }
    }

    pub fn node(&self, index: usize) -> &Mirror {
        &self.nodes[index]
    }

    pub fn node_mut(&mut self, index: usize) -> &mut Mirror {
        &mut self.nodes[index]
    }

    pub fn nodes(&self) -> &[Mirror] {
        &self.nodes
    }

    /// The sum of a metric over all nodes.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            sum += node.metric(name, labels).await;
        }
        sum
    }
}

impl ClusterBuilder {
    /// Changes what the files of all nodes would say.
    pub fn config(mut self, change: impl Fn(&mut forebay::config::Config)) -> Self {
        self.nodes = self.nodes.into_iter().map(|(at, builder)| (at, builder.config(&change))).collect();
        self
    }

    pub async fn start(self) -> Cluster {
        let mut nodes = Vec::new();
        for (listener, builder) in self.nodes {
            nodes.push(builder.start_on(listener).await);
        }
        Cluster { nodes }
    }
}
