//! docker at the stand-ins of the registries that users push to, each spoken to by its real name and in its own dialect: log in, tag,
//! push, push all tags, pull, delete an image with all its tags; with forebay's credentials and with the user's own.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use forebay_test_support::{
    internet::{
        Internet,
        dialect::Dialect,
        registries::{docker_hub, ecr, harbor, qingcloud, tencent},
    },
    program::Program,
    real::{docker::Docker, download::client, image::random, tar, turn::Turn},
    users::basic,
};

const ALL: [&Dialect; 7] = [
    &tencent::CCR,
    &qingcloud::TOKENS,
    &qingcloud::PASSWORDS,
    &harbor::HARBOR,
    &harbor::CLEAR,
    &docker_hub::HUB,
    &ecr::ECR,
];

/// A user of forebay's own.
const ANN: (&str, &str) = ("ann", "hers at forebay");

/// A forebay before this registry, with its credentials or without, and what a client has to show there.
async fn forebay(internet: &Internet, dialect: &Dialect, shared: bool) -> (Program, (&'static str, &'static str)) {
    let directory = TempDir::with_prefix("forebay-dialect-").expect("a folder can be made");
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("a file can be written");
    let user = dialect.users[0];
    write("password", user.1);
    write("htpasswd", &format!("{}:{}\n", ANN.0, bcrypt::hash(ANN.1, 4).expect("a password can be hashed")));
    let Dialect { name, configuration, .. } = dialect;
    let (access, keys, shown) = match shared {
        // Docker shows a name only where it was asked for one.
        true => (
            "[access]\nanonymous = \"none\"\nhtpasswd = \"htpasswd\"\n",
            format!("username = '{}'\npassword_file = \"password\"", user.0),
            ANN,
        ),
        false => ("", "access = \"client\"".to_owned(), user),
    };
    write(
        "forebay.toml",
        &format!(
            "[cache]\nmin_free = 0\n{access}[[upstream]]\nname = {name:?}\nca = {:?}\ndefault = true\npush = true\n\
             {configuration}\n{keys}\n",
            internet.ca()
        ),
    );
    let environment = [("HTTPS_PROXY", &*internet.proxy), ("HTTP_PROXY", &internet.proxy)];
    (Program::serve_with(directory, "forebay=debug", &environment).await, shown)
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_pulls_and_deletes_at_each_registry() {
    let _turn = Turn::of_the_engines().await;
    let docker = Docker::start(json!({}), &[], &[]).await;
    let folder = TempDir::with_prefix("forebay-layer-").expect("a folder can be made");
    let layer = folder.path().join("layer.tar");
    fs::write(&layer, tar::archive(&[("file", &random(90, 300_000))])).expect("a layer can be written");
    docker.run(&["import", &layer.display().to_string(), "source:1"]).await.ok();
    for (dialect, shared) in ALL.into_iter().flat_map(|dialect| [(dialect, true), (dialect, false)]) {
        let internet = Internet::of(&[*dialect]).await;
        let (forebay, (user, password)) = forebay(&internet, dialect, shared).await;
        let host = forebay.registry.to_string();
        let what = format!("{} shared: {shared}", dialect.name);

        let said = docker.run(&["login", "--username", user, "--password", "wrong", &host]).await.failed();
        // What the registry itself tells where the client's password is for it.
        let own = if shared { 401 } else { internet.login(dialect, (user, "wrong")).status };
        assert!(said.contains(&own.to_string()), "{what}: {said}");
        docker.run(&["login", "--username", user, "--password", password, &host]).await.ok();
        // In the second repository, docker mounts what it has pushed to the first.
        for repository in dialect.empty {
            let target = format!("{host}/{repository}");
            for tag in ["1", "2"] {
                docker.run(&["tag", "source:1", &format!("{target}:{tag}")]).await.ok();
            }
            if dialect.realm.is_some() && shared && repository == &dialect.empty[0] {
                // A token dies in mid-push: docker tries again, after some seconds.
                internet.revoke_tokens_at_next_part(dialect);
            }
            docker.run(&["push", &format!("{target}:1")]).await.ok();
            docker.run(&["push", "--all-tags", &target]).await.ok();
            assert_eq!(internet.tags(dialect, repository), ["1", "2"], "{what}");
            docker.run(&["rmi", &format!("{target}:1"), &format!("{target}:2")]).await.ok();
            docker.run(&["pull", "--all-tags", &target]).await.ok();
            let (digest, ..) = internet.manifest(dialect, repository, "1").expect("it was pushed");
            let delete = client().delete(format!("http://{host}/v2/{repository}/manifests/{digest}"));
            let deleted = delete.header("authorization", basic(user, password)).send().await.expect("forebay answers");
            let expected = dialect.delete.map_or(202, |refusal| refusal.0);
            assert_eq!(deleted.status(), expected, "{what}: {}", forebay.log());
            if expected == 202 {
                assert!(internet.tags(dialect, repository).is_empty(), "{what}");
                docker.try_pull(&format!("{target}:2")).await.failed();
            }
            docker.run(&["rmi", &format!("{target}:1"), &format!("{target}:2")]).await.ok();
        }
        docker.run(&["logout", &host]).await.ok();
        docker.try_pull(&format!("{host}/{}:1", dialect.empty[0])).await.failed();
        internet.assert_secrets_kept_by_writer();
    }
}
