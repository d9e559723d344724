use super::*;

fn filter(home: &str) -> AddressFilter {
    AddressFilter::new(&[Url::parse(home).unwrap()], &["realm.lan:8443".to_owned()])
}

async fn allows(home: &str, target: &str) -> bool {
    filter(home).check(&Url::parse(target).unwrap()).await.is_ok()
}

const SPECIAL: &[&str] = &[
    "http://127.0.0.1/",
    "http://127.9.9.9:8080/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.0.23/",
    "http://100.100.100.200/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[fe80::1]/",
    "http://[ff02::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[2002:7f00:1::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://168.63.129.16/",
    "http://[::ffff:168.63.129.16]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[64:ff9b:1:7f00:0:100::]/",
    "http://localhost/",
    "http://LOCALHOST.:8080/",
    "http://a.localhost/",
    "http://a.localhost./",
    "http://metadata/computeMetadata/v1/",
    "http://metadata.google.internal/",
    "http://metadata.google.internal./",
    "http://instance-data.ec2.internal/",
    // SIIT.
    "http://[::ffff:0:7f00:1]/",
    "http://[::ffff:0:169.254.169.254]/",
    "http://[::ffff:0:0:0]/",
    // Teredo: the client's address is inverted; the server's is not.
    "http://[2001:0:cb00:7107:0:0:80ff:fffe]/",
    "http://[2001:0:cb00:7107:8000:63bf:5601:5601]/",
    "http://[2001:0:7f00:1::1]/",
    "http://[2001:0:cb00:7107:0:0:9b9b:9b37]/",
    // ISATAP.
    "http://[2001:db8::5efe:127.0.0.1]/",
    "http://[2001:db8::200:5efe:169.254.169.254]/",
    // 6to4 and NAT64.
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2002:6464:64c8::]/",
    "http://[64:ff9b::100.100.100.200]/",
    "http://[64:ff9b::]/",
    "http://192.0.0.192/",
    "http://[::ffff:192.0.0.192]/",
    "http://[fd00:ec2::23]/",
    "http://[fd00:c1::a9fe:a9fe]/",
    "http://[fd00:42::42]/",
];

#[tokio::test]
async fn an_upstream_elsewhere_may_not_redirect_to_this_machine() {
    for target in SPECIAL {
        assert!(!allows("https://203.0.113.7", target).await, "{target}");
    }
    for target in [
        "https://203.0.113.8/",
        "https://10.0.0.5:9000/",
        "https://[2001:db8::1]/",
        "https://cdn.example/",
        "https://metadata.example/",
        "https://internal.example/",
        "https://localhost.example/",
        // The resolver judges it by its addresses.
        "http://minio.corp.internal/",
        "http://internal/",
        // What translators make of an address elsewhere.
        "https://[::ffff:0:203.0.113.8]/",
        "https://[64:ff9b::203.0.113.8]/",
        "https://[2002:cb00:7108::1]/",
        "https://[2001:0:cb00:7107:0:0:34ff:8ef7]/",
        "https://[2001:db8::5efe:203.0.113.8]/",
        // It has the middle of an ISATAP address alone.
        "https://[2001:db8::1:5efe:127.0.0.1]/",
    ] {
        assert!(allows("https://203.0.113.7", target).await, "{target}");
    }
}

#[tokio::test]
async fn an_upstream_on_loopback_may_redirect_to_loopback_only() {
    for (home, target, allowed) in [
        ("http://127.0.0.1:5000", "http://127.0.0.2:80/", true),
        ("http://127.0.0.1:5000", "http://[::1]/", true),
        ("http://localhost:5000", "http://127.0.0.1/", true),
        ("http://127.0.0.1:5000", "http://169.254.169.254/", false),
        ("http://169.254.7.7", "http://169.254.7.7:81/", true),
        ("http://169.254.7.7", "http://169.254.169.254/", false),
        ("http://127.0.0.1:5000", "http://0.0.0.0/", false),
        ("http://127.0.0.1:5000", "http://localhost/", true),
        ("http://localhost.:5000", "http://a.localhost/", true),
        ("http://127.0.0.1:5000", "http://metadata/", false),
        ("http://127.0.0.1:5000", "http://[::ffff:0:7f00:1]/", true),
        ("http://127.0.0.1:5000", "http://[2001:0:7f00:1::1]/", false),
        ("http://registry.corp.internal", "http://minio.corp.internal/", true),
        ("http://registry.corp.internal", "http://metadata.google.internal/", false),
        ("http://metadata", "http://metadata/", true),
    ] {
        assert_eq!(allows(home, target).await, allowed, "{home} {target}");
    }
}

#[tokio::test]
async fn the_resolver_judges_names_by_their_addresses() {
    let resolve = async |home: &str| filter(home).resolve("localhost".parse().unwrap()).await;
    let Err(error) = resolve("https://203.0.113.7").await else { panic!("localhost was not refused") };
    assert!(error.is::<AddressRefused>());
    assert!(resolve("http://127.0.0.1:5000").await.is_ok());
}

#[tokio::test]
async fn a_proxy_on_this_machine_is_dialled_but_is_no_target() {
    let home = vec![Host::Ipv4(Ipv4Addr::new(203, 0, 113, 7))];
    let (proxies, resolve) = (vec!["localhost".into()], resolve_by_system);
    let inner = Inner { home, chosen: vec![], proxies, resolve, lookups: turns_of_upstream() };
    let filter = AddressFilter(Arc::new(inner));
    assert!(filter.resolve("localhost".parse().unwrap()).await.is_ok());
    assert!(filter.check(&Url::parse("http://localhost:3128/").unwrap()).await.is_err());
}

#[tokio::test]
async fn names_behind_a_proxy_are_resolved_and_checked() {
    fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![if name.starts_with("here.") { ([127, 0, 0, 1], 0) } else { ([203, 0, 113, 7], 0) }.into()])
    }
    for (home, proxy, target, allowed) in [
        ("there.example", Some("here.example"), "http://here.example/", false),
        ("there.example", Some("there.example"), "http://here.example/", true),
        ("there.example", Some("there.example"), "http://here.internal/", false),
        ("there.example", Some("there.example"), "http://there.internal/", true),
        // It is judged when it is resolved to be dialled.
        ("there.example", None, "http://here.internal/", true),
        ("there.example", None, "http://127.0.0.1/", false),
        ("here.example", None, "http://127.0.0.1/", true),
    ] {
        let proxies = proxy.into_iter().map(str::to_owned).collect();
        let home = vec![Host::Domain(home.to_owned())];
        let filter =
            AddressFilter(Arc::new(Inner { home, chosen: vec![], proxies, resolve, lookups: turns_of_upstream() }));
        assert_eq!(filter.check(&Url::parse(target).unwrap()).await.is_ok(), allowed, "{proxy:?} {target}");
    }
}

#[tokio::test]
async fn a_refusal_tells_why_the_host_is_refused() {
    let refusal = async |target: &str| {
        let refused = filter("https://203.0.113.7").check(&Url::parse(target).unwrap()).await;
        refused.unwrap_err().to_string()
    };
    assert!(refusal("http://metadata.google.internal/").await.contains("is a name of a cloud's metadata service"));
    assert!(refusal("http://169.254.169.254/").await.contains("leads to a loopback, link-local"));
}

#[tokio::test]
async fn listed_realms_are_dialled() {
    let listed = ["localhost:8443".to_owned()];
    let filter = AddressFilter::new(&[Url::parse("https://203.0.113.7").unwrap()], &listed);
    assert!(filter.resolve("localhost".parse().unwrap()).await.is_ok());
}

#[test]
fn hosts_of_authorities() {
    for (authority, host) in [
        ("auth.lan", "auth.lan"),
        ("auth.lan:5001", "auth.lan"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
    ] {
        assert_eq!(host_of(authority), host);
    }
}

#[test]
fn names_are_sorted_by_where_they_lead() {
    for (name, kind) in [
        ("registry.example", AddressKind::Usual),
        ("internal.example", AddressKind::Usual),
        ("minio.corp.internal", AddressKind::Internal),
        ("MINIO.INTERNAL.", AddressKind::Internal),
        ("a.localhost", AddressKind::Loopback),
        ("metadata.google.internal", AddressKind::Metadata),
        ("metadata.example", AddressKind::Usual),
    ] {
        assert_eq!(AddressKind::of(name), kind, "{name}");
    }
}

#[test]
fn proxies_are_written_in_several_ways() {
    for value in ["http://proxy.lan:3128", "proxy.lan:3128", "socks5://user:pw@proxy.lan", "proxy.lan"] {
        assert_eq!(proxy_host(value).as_deref(), Some("proxy.lan"), "{value}");
    }
}
