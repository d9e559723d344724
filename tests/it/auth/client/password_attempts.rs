//! Wrong passwords: so many of an address and of an account reach the upstream, and no more.

use std::net::IpAddr;

use futures_util::{StreamExt as _, stream};

use super::*;
use forebay_test_support::{
    fake_registry::{Fault, Gate, Record, Server, When},
    raw::Raw,
    until::until,
};

/// One client at an address of its own.
struct Client<'a> {
    mirror: &'a Mirror,
    address: &'static str,
    client: reqwest::Client,
}

impl Client<'_> {
    async fn request(&self, who: (&str, &str), method: Method, path: &str) -> Answer {
        let request = self.client.request(method, format!("{}{path}", self.mirror.url()));
        let response = request.header("authorization", basic(who.0, who.1)).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }

    async fn get(&self, who: (&str, &str), path: &str) -> u16 {
        self.request(who, Method::GET, path).await.status
    }

    /// Shows so many wrong passwords, one after the other; how many of them were judged.
    async fn guess(&self, user: &str, passwords: u32, path: &str) -> usize {
        let mut judged = 0;
        for n in 0..passwords {
            let answer = self.request((user, &format!("guess {n} from {}", self.address)), Method::GET, path).await;
            if answer.status == 401 {
                judged += 1;
                continue;
            }
            assert_eq!((answer.status, &*answer.error_code()), (429, "TOOMANYREQUESTS"));
            let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=30).contains(&retry_after), "{retry_after}");
        }
        judged
    }
}

fn at<'a>(mirror: &'a Mirror, address: &'static str) -> Client<'a> {
    let of_address: IpAddr = address.parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().local_address(of_address).build().unwrap();
    Client { mirror, address, client }
}

const MANIFEST: &str = "/v2/team/a/manifests/1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_guesses_are_few_requests_upstream() {
    for auth in [Auth::Bearer(World::rules()), basic_of_ann()] {
        let world = World::new().await;
        world.registry.require(auth);
        let mirror = world.mirror("").start().await;
        let (eve, owner) = (at(&mirror, "127.0.0.1"), at(&mirror, "127.0.0.2"));
        assert_eq!(owner.get(ANN, "/v2/").await, 200);
        for path in [MANIFEST, "/v2/", "/v2/team/a/tags/list", "/v2/team/a/blobs/nonsense"] {
            world.registry.forget_requests();
            let judged = eve.guess("ann", if path == MANIFEST { 300 } else { 30 }, path).await;
            let asked = world.registry.requests().len();
            // One more after each half minute, should the test take as long.
            // Without the password, with it, and for the words of the refusal.
            assert!(judged <= 25 && asked <= 25 * 3, "{path}: {judged} judged, {asked} asked");
            assert!(path != MANIFEST || judged >= 20, "{judged}");
        }
        let counted = async |reason| mirror.metric("forebay_auth_failures_total", &[("reason", reason)]).await;
        let (judged, not_judged) = (counted("upstream").await, counted("too_many").await);
        assert!(judged >= 20.0 && not_judged >= 200.0 && judged + not_judged == 390.0, "{judged} {not_judged}");
        // Her password is right, from wherever it comes: it was right before.
        for client in [&owner, &eve] {
            assert_eq!(client.get(ANN, MANIFEST).await, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_once_are_no_more_than_guesses_in_turn() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let eve = at(&mirror, "127.0.0.1");
    let passwords: Vec<String> = (0..300).map(|n| format!("guess {n}")).collect();
    let mut answers =
        stream::iter(&passwords).map(|password| eve.get(("ann", password), MANIFEST)).buffer_unordered(100);
    let mut judged = 0;
    while let Some(status) = answers.next().await {
        assert!(matches!(status, 401 | 429), "{status}");
        judged += usize::from(status == 401);
    }
    let asked = world.registry.requests().len();
    assert!((20..=25).contains(&judged) && asked <= 60, "{judged} judged, {asked} asked");
    // The owner was never here before.
    assert_eq!(at(&mirror, "127.0.0.2").get(ANN, MANIFEST).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_40_guesses_and_an_account_60() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let eve = at(&mirror, "127.0.0.1");
    let mut judged = 0;
    for n in 0..100 {
        judged += eve.guess(&format!("user {n}"), 1, MANIFEST).await;
    }
    assert!((40..=45).contains(&judged), "{judged}");
    // The same account from everywhere: once sixty were wrong, each address has one try.
    let addresses = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5", "127.0.1.6"];
    let mut judged = 0;
    for address in addresses {
        judged += at(&mirror, address).guess("ann", 25, MANIFEST).await;
    }
    assert!((63..=70).contains(&judged), "{judged}");
    assert_eq!(at(&mirror, "127.0.1.7").get(ANN, MANIFEST).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_network_is_held_to_the_limit_of_each_account() {
    let world = World::new().await;
    let trusted = "[server]\ntrusted_networks = [\"127.0.0.0/8\"]";
    let mirror = world.mirror(trusted).start().await;
    let many = at(&mirror, "127.0.0.1");
    for n in 0..60 {
        assert_eq!(many.guess(&format!("user {n}"), 1, MANIFEST).await, 1, "{n}");
    }
    let judged = many.guess("ann", 100, MANIFEST).await;
    assert!((20..=25).contains(&judged), "{judged}");
}

/// A node that starts pulls many images at once, and an upstream may be slow to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_waits_for_no_place() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let rights = (0..60).map(|n| &*format!("team/{n}").leak()).map(|repository| ("ann", repository)).collect();
    world.registry.require(Auth::Bearer(Bearer { rights, ..World::rules() }));
    for n in 0..60 {
        world.registry.add_image(&format!("team/{n}"), "1", &[b"layer"]);
    }
    let node = at(&mirror, "127.0.0.1");
    let paths: Vec<String> = (0..60).map(|n| format!("/v2/team/{n}/manifests/1")).collect();
    let mut answers = stream::iter(&paths).map(|path| node.get(ANN, path)).buffer_unordered(60);
    while let Some(status) = answers.next().await {
        assert_eq!(status, 200);
    }
}

/// Whose password is right may ask for what is not theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ones_own_is_no_wrong_password() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let bob = at(&mirror, "127.0.0.1");
    for n in 0..60 {
        assert_eq!(bob.get(BOB, &format!("/v2/team/a/manifests/{n}")).await, 401, "{n}");
    }
    assert_eq!(bob.get(BOB, "/v2/team/b/manifests/1").await, 200);
}

/// As many machines still have it that pull all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_changed_is_wrong_in_the_end() {
    let world = World::new().await;
    let mirror = world.mirror("").config(|config| config.cache.negative_ttl = std::time::Duration::ZERO).start().await;
    let machine = at(&mirror, "127.0.0.1");
    assert_eq!(machine.get(ANN, "/v2/").await, 200);
    let users = vec![("ann".to_owned(), "a new password".to_owned())];
    world.registry.require(Auth::Bearer(Bearer { users, ..World::rules() }));
    world.registry.forget_requests();
    let mut judged = 0;
    for n in 0..300 {
        judged += usize::from(machine.get(ANN, &format!("/v2/team/a/manifests/{n}")).await == 401);
    }
    assert!((50..=80).contains(&judged), "{judged}");
    assert_eq!(at(&mirror, "127.0.0.2").get(("ann", "a new password"), MANIFEST).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guess_counts_though_its_client_leaves() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    let gate = Gate::new();
    world.registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let mut left = Vec::new();
    for n in 0..20 {
        let guess = basic("ann", &format!("guess {n}"));
        left.push(Raw::send(mirror.address(), MANIFEST, &[("authorization", &guess)]).await.unwrap());
    }
    world.registry.wait_for(|requests| requests.iter().filter(|request| is_token(request)).count() == 20).await;
    drop(left);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    // It waits for one of them to prove right.
    let eve = at(&mirror, "127.0.0.1");
    let (answer, ()) = tokio::join!(eve.request(("ann", "guess 20"), Method::GET, MANIFEST), async {
        mirror.until_metric("forebay_connections", &[], 1.0).await;
        gate.open();
    });
    assert_eq!((answer.status, &*answer.error_code()), (429, "TOOMANYREQUESTS"));
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 1, "it gave up waiting");
}

/// Nodes give up an upstream that hangs; whether their passwords are right it has not said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_what_hangs_is_no_guesser() {
    let world = World::new().await;
    // She may read all that she asks for, were it there.
    world.registry.require(Auth::Bearer(Bearer { rights: vec![], ..World::rules() }));
    let mirror = world.mirror("").start().await;
    let gate = Gate::new();
    world.registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let mut left = Vec::new();
    for n in 0..20 {
        let path = format!("/v2/team/{n}/manifests/1");
        left.push(Raw::send(mirror.address(), &path, &[("authorization", &basic(ANN.0, ANN.1))]).await.unwrap());
    }
    world.registry.wait_for(|requests| requests.iter().filter(|request| is_token(request)).count() == 20).await;
    drop(left);
    mirror.until_metric("forebay_connections", &[], 0.0).await;
    world.registry.heal();
    world.registry.fault(When::tokens(), Fault::status(503));
    gate.open();
    let eve = at(&mirror, "127.0.0.1");
    // It has a place when theirs are given back.
    assert!(matches!(eve.get(("ann", "guess"), MANIFEST).await, 502 | 503));
    world.registry.heal();
    assert_eq!(eve.guess("ann", 19, MANIFEST).await, 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_keeps_no_login_elsewhere() {
    let (world, other) = (World::new().await, World::new().await);
    let keys =
        format!("[[upstream]]\nname = \"other.example\"\nurls = [\"{}\"]\naccess = \"client\"", other.registry.url());
    let mirror = world.mirror(&keys).start().await;
    let gate = Gate::new();
    world.registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let mut waiting = Vec::new();
    for n in 0..40 {
        let user = basic(&format!("user {n}"), "password");
        waiting.push(Raw::send(mirror.address(), MANIFEST, &[("authorization", &user)]).await.unwrap());
    }
    world.registry.wait_for(|requests| requests.iter().filter(|request| is_token(request)).count() == 40).await;
    let client = at(&mirror, "127.0.0.1");
    let elsewhere = "/v2/team/a/manifests/1?ns=other.example";
    let login = tokio::time::timeout(std::time::Duration::from_secs(20), client.get(ANN, elsewhere));
    assert_eq!(login.await.ok(), Some(200), "it waits for no other upstream");
    drop(waiting);
    gate.open();
}

/// Public content says nothing about a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_content_confirms_no_password() {
    for auth in [Auth::Bearer(World::rules()), basic_of_ann()] {
        let world = World::new().await;
        world.registry.require(auth);
        let base = vec![("docker-distribution-api-version", "registry/2.0".to_owned())];
        world.registry.fault(When::base(), Fault::Answer { status: 200, headers: base, body: "{}".to_owned() });
        let open = "/v2/team/open/tags/list";
        let tags =
            Fault::Answer { status: 200, headers: vec![], body: r#"{"name":"team/open","tags":["1"]}"#.to_owned() };
        world.registry.fault(When::path_of("/team/open/tags/list"), tags);
        let mirror = world.mirror("").start().await;
        // How the registry wants to be asked is known.
        assert_eq!(at(&mirror, "127.0.0.2").get(ANN, MANIFEST).await, 200);
        let eve = at(&mirror, "127.0.0.1");
        let mut judged = 0;
        for n in 0..60 {
            let guess = ("ann", &*format!("guess {n}"));
            for path in ["/v2/", open] {
                assert!(matches!(eve.get(guess, path).await, 200 | 429), "{path}");
            }
            judged += usize::from(eve.get(guess, MANIFEST).await == 401);
        }
        // forebay requests an anonymous token, too, so the realm judges each guess twice.
        assert!((10..=25).contains(&judged), "{judged}");
    }
}

/// Not every registry says 401 to a wrong password, nor every realm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_refuses_a_password_counts() {
    let no_token = Fault::Answer { status: 200, headers: vec![], body: "{}".to_owned() };
    for (auth, when, fault) in [
        (Auth::Bearer(World::rules()), When::tokens(), no_token),
        (Auth::Bearer(World::rules()), When::tokens(), Fault::html()),
        (basic_of_ann(), When::manifests().authorized(), Fault::status(403)),
        (basic_of_ann(), When::manifests().authorized(), Fault::status(404)),
        (basic_of_ann(), When::manifests().authorized(), Fault::html()),
    ] {
        let world = World::new().await;
        world.registry.require(auth);
        world.registry.fault(when, fault.clone());
        let mirror = world.mirror("").start().await;
        let eve = at(&mirror, "127.0.0.1");
        let mut judged = 0;
        for n in 0..60 {
            judged += usize::from(eve.get(("ann", &format!("guess {n}")), MANIFEST).await != 429);
        }
        assert!((20..=25).contains(&judged), "{fault:?}: {judged}");
    }
}

/// For a wrong password the realm gives a token, too, as for no password; the registry refuses requests with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anonymous_token_confirms_no_password() {
    for refusal in [None, Some(Fault::status(403))] {
        let world = World::new().await;
        world.registry.fault(When::tokens(), realm_of_all());
        if let Some(refusal) = &refusal {
            world.registry.fault(When::manifests().authorized(), refusal.clone());
        }
        let mirror = world.mirror("").start().await;
        for (address, path) in [
            ("127.0.0.1", MANIFEST),
            ("127.0.0.3", "/v2/"),
            ("127.0.0.4", "/v2/team/a/tags/list"),
            ("127.0.0.5", "/v2/team/open/manifests/1"),
        ] {
            let (eve, mut judged) = (at(&mirror, address), 0);
            for n in 0..60 {
                judged += usize::from(eve.get((address, &format!("guess {n}")), path).await != 429);
            }
            assert!((15..=25).contains(&judged), "{path} {refusal:?}: {judged}");
        }
        world.registry.heal();
        assert_eq!(at(&mirror, "127.0.0.2").get(ANN, MANIFEST).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anonymous_token_is_no_login() {
    let world = World::new().await;
    world.registry.fault(When::tokens(), realm_of_all());
    let mirror = world.mirror("").start().await;
    let client = at(&mirror, "127.0.0.1");
    for _ in 0..2 {
        assert_eq!(client.get((ANN.0, "wrong"), "/v2/").await, 401);
    }
    world.registry.heal();
    assert_eq!(client.get(ANN, "/v2/").await, 200);
    assert_eq!(client.get((ANN.0, "wrong"), "/v2/").await, 401);
}

/// An ingress without a backend answers in the realm's place, whatever it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_a_realms_place_is_no_wrong_password() {
    let statuses = [400, 404, 405, 410, 421].map(Fault::page);
    for page in statuses.into_iter().chain([Fault::no_backend()]) {
        let world = World::new().await;
        let mirror = world.mirror("access_ttl = \"0s\"\naccess_grace = \"1h\"").start().await;
        let client = at(&mirror, "127.0.0.1");
        let (hers, his) = (layer("team/a", &world.of_ann), layer("team/b", &world.of_bob));
        assert_eq!(client.get(ANN, &hers).await, 200);
        world.registry.revoke_tokens();
        world.registry.fault(When::tokens(), page.clone());
        for _ in 0..60 {
            assert_eq!(client.get(ANN, &hers).await, 200, "{page:?}");
            assert_eq!(client.get(BOB, &his).await, 502, "{page:?}");
        }
        world.registry.heal();
        until("he is let in", async || client.get(BOB, &his).await == 200).await;
        assert_eq!(client.get(ANN, &hers).await, 200, "{page:?}");
    }
}

/// Which a realm says of what it does not understand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realms_own_404_refuses_a_client() {
    let world = World::new().await;
    let mirror = world.mirror("").start().await;
    world.registry.fault(When::tokens(), Fault::status(404));
    assert_eq!(at(&mirror, "127.0.0.1").get(ANN, MANIFEST).await, 401);
}

fn realm_of_all() -> Fault {
    let headers = vec![("content-type", "application/json".to_owned())];
    Fault::Answer { status: 200, headers, body: r#"{"token":"for-all"}"#.to_owned() }
}

fn basic_of_ann() -> Auth {
    Auth::Basic { username: ANN.0.to_owned(), password: ANN.1.to_owned() }
}

fn is_token(request: &Record) -> bool {
    request.server == Server::Realm
}
