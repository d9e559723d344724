use super::*;

fn clients(server_name: Option<&str>) -> PeerClients {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    PeerClients {
        tls: tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
        server_name: server_name.map(Into::into),
        zone: None,
        timeout: Duration::from_secs(1),
    }
}

fn config(peers: &[&str], advertise: Option<&str>, server_name: Option<&str>) -> Config {
    Config {
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        advertise: advertise.map(|own| own.parse().unwrap()),
        key_file: "cluster.key".into(),
        zone: None,
        server_name: server_name.map(Into::into),
        ca: None,
        timeout: Duration::from_secs(1),
    }
}

fn membership(peers: &[&str], advertise: Option<&str>, listen: &str) -> Membership {
    let config = config(peers, advertise, None);
    Membership::new(&config, vec![listen.parse().unwrap()], clients(None)).unwrap()
}

fn names(membership: &Membership) -> Vec<String> {
    let name = |member: &Member| match member {
        Member::This(name) => format!("this {name}"),
        Member::Other(peer) => peer.name().to_string(),
    };
    membership.members().all.iter().map(name).collect()
}

fn addresses(text: &str) -> BTreeSet<SocketAddr> {
    text.split_whitespace().map(|address| address.parse().unwrap()).collect()
}

#[tokio::test]
async fn what_dns_said_last_counts_while_it_does_not_answer() {
    let membership = membership(&["dns:forebay.lan:5000"], None, "127.0.0.1:5000");
    assert!(names(&membership).is_empty());
    let (both, one) = (["this http://127.0.0.1:5000", "http://127.0.0.2:5000"], ["this http://127.0.0.1:5000"]);
    for (answer, expected, is_failing) in [
        (Err(io::ErrorKind::NotFound), &[][..], true),
        (Ok("127.0.0.1:5000 127.0.0.2:5000"), &both[..], false),
        (Err(io::ErrorKind::TimedOut), &both, true),
        (Ok(""), &both, true),
        (Ok("127.0.0.1:5000"), &one, false),
        (Ok("127.0.0.2:5000 127.0.0.1:5000"), &both, false),
    ] {
        membership
            .look_up(|name, port| async move {
                assert_eq!((&*name, port), ("forebay.lan", 5000));
                answer.map(addresses).map_err(Into::into)
            })
            .await;
        let mut expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        expected.sort_by_key(|name| name.trim_start_matches("this ").to_owned());
        assert_eq!(names(&membership), expected, "{answer:?}");
        assert_eq!(membership.log.is_failing(), is_failing, "{answer:?}");
    }
}

#[tokio::test]
async fn a_peer_that_stays_keeps_what_is_known_of_it() {
    let membership = membership(&["dns:forebay.lan:5000"], None, "127.0.0.1:5000");
    let find = async |all: &'static str| {
        membership.look_up(|_, _| async move { Ok(addresses(all)) }).await;
        let members = membership.members();
        members.all.iter().find_map(|member| match member {
            Member::Other(peer) if peer.name().contains("127.0.0.2") => Some(peer.clone()),
            _ => None,
        })
    };
    let first = find("127.0.0.2:5000").await.unwrap();
    let second = find("127.0.0.2:5000 127.0.0.3:5000").await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert!(find("127.0.0.3:5000").await.is_none());
}

#[tokio::test]
async fn members_that_could_not_be_made_are_tried_again() {
    let membership = membership(&["dns:forebay.lan:5000"], None, "127.0.0.1:5000");
    membership.note(0, addresses("127.0.0.2:5000"));
    // As after a failure: the addresses are known, and DNS says the same again.
    membership.look_up(|_, _| async { Ok(addresses("127.0.0.2:5000")) }).await;
    assert_eq!(names(&membership), ["http://127.0.0.2:5000"]);
}

#[test]
fn all_members_leave_out_the_same_of_too_many() {
    let membership = membership(&["dns:forebay.lan:5000"], None, "127.0.0.1:5000");
    let all: Vec<SocketAddr> = (0..MAX_MEMBERS as u32 + 100)
        .map(|number| (IpAddr::from((0x0a00_0000 + number).to_be_bytes()), 5000).into())
        .collect();
    let listed = |all: Vec<SocketAddr>| {
        membership.note(0, all.into_iter().collect());
        membership.listed()
    };
    let first = listed(all.clone());
    assert_eq!(first.len(), MAX_MEMBERS);
    assert_eq!(listed(all.into_iter().rev().collect()), first);
}

#[test]
fn a_forebay_finds_itself_among_the_members() {
    let listed = ["https://node1:5000", "http://127.0.0.1:5000", "http://127.0.0.2:5001"];
    for (advertise, listen, expected) in [
        (None, "0.0.0.0:5000", Some("http://127.0.0.1:5000")),
        (None, "[::]:5001", Some("http://127.0.0.2:5001")),
        (None, "127.0.0.1:5000", Some("http://127.0.0.1:5000")),
        (None, "127.0.0.1:5001", None),
        (None, "0.0.0.0:5002", None),
        (Some("https://node1:5000"), "0.0.0.0:5000", Some("https://node1:5000")),
        // The scheme does not tell members apart.
        (Some("http://node1:5000"), "0.0.0.0:5000", Some("https://node1:5000")),
    ] {
        let membership = membership(&listed, advertise, listen);
        let own = names(&membership).into_iter().find_map(|name| name.strip_prefix("this ").map(str::to_owned));
        assert_eq!(own.as_deref(), expected, "{advertise:?} {listen}");
        assert_eq!(membership.members().has_this(), expected.is_some());
    }
}

#[tokio::test]
async fn peers_that_dns_lists_have_the_name_of_their_certificates() {
    let config = config(&["dns:forebay.lan:5000"], None, Some("forebay.lan"));
    let own = vec!["127.0.0.1:5000".parse().unwrap()];
    let membership = Membership::new(&config, own, clients(Some("forebay.lan"))).unwrap();
    membership.look_up(|_, _| async { Ok(addresses("127.0.0.2:5000")) }).await;
    let members = membership.members();
    let Member::Other(peer) = &members.all[0] else { panic!("{members:?}") };
    assert_eq!((&**peer.name(), peer.base().as_str()), ("https://127.0.0.2:5000", "https://forebay.lan:5000/"));
}

#[test]
fn many_names_are_told_in_part() {
    let names: Vec<String> = (0..MAX_TOLD + 3).map(|number| number.to_string()).collect();
    assert_eq!(some_of(names[..2].iter()), "0 1");
    assert!(some_of(names.iter()).ends_with("15 and 3 more"));
}
