//! What answers hold in memory until it is sent has a bound, whatever their clients do.

use crate::support::{
    fake_registry::{FakeRegistry, Fault, When},
    mirror::Mirror,
    raw::Raw,
    until::until,
};

#[tokio::test]
async fn long_answers_that_clients_do_not_take_are_bounded() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[]);
    let list = format!(r#"{{"name":"team/app","tags":["1"]{}}}"#, " ".repeat(15 << 20));
    let headers = vec![("content-type", "application/json".to_owned())];
    registry.fault(When::path_of("/tags/list"), Fault::Answer { status: 200, headers, body: list });
    let mirror = Mirror::of(&registry).await;
    let ask = async |n: usize| {
        let client = Raw::get(mirror.address(), &format!("/v2/team/app/tags/list?n={n}"), &[]).await;
        (client.status, client)
    };
    // Three quarters of 256 MiB are one address's: 12 lists of 15 MiB.
    let mut held = Vec::new();
    for n in 1..=12 {
        let (status, client) = ask(n).await;
        assert_eq!(status, 200, "{n}");
        held.push(client);
    }
    // An equal one is in memory already.
    let (status, client) = ask(1).await;
    assert_eq!(status, 200);
    held.push(client);
    let refused = mirror.get("/v2/team/app/tags/list?n=13").await;
    assert_eq!(
        (refused.status, &*refused.error_code(), refused.header("retry-after")),
        (503, "UNAVAILABLE", Some("1"))
    );
    // What is small is answered, and so is a HEAD.
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.body, image.manifest_bytes);
    assert_eq!(mirror.head("/v2/team/app/tags/list?n=13").await.status, 200);
    drop(held);
    until("there is room again", async || mirror.get("/v2/team/app/tags/list?n=13").await.status == 200).await;
}
