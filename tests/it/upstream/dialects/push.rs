//! Pushes to the registries that users push to, as docker makes them: log in, push, push all tags, pull, delete an image with
//! all its tags; with forebay's credentials and with the client's own.

use bytes::Bytes;
use forebay::oci::{Algorithm, Digest};

use super::*;
use forebay_test_support::{blob, internet::dialect::Mount};

const ALL: [&Dialect; 8] = [
    &docker_hub::HUB,
    &ecr::ECR,
    &harbor::HARBOR,
    &harbor::CLEAR,
    &qingcloud::TOKENS,
    &qingcloud::PASSWORDS,
    &tencent::CCR,
    &tencent::HKCCR,
];

/// A user of forebay's own, where its credentials decide.
const ANN: (&str, &str) = ("ann", "hers at forebay");
const KIND: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a client has, and the registry does not.
struct Made {
    /// Layers, and the configuration behind them.
    blobs: Vec<Bytes>,
    manifest: String,
}

impl Made {
    fn new(seed: u64) -> Self {
        let blobs =
            vec![blob::content(100_000, seed), blob::content(3, seed), Bytes::from(format!("{{\"x\":{seed}}}"))];
        let named = |kind: &str, blob: &Bytes| {
            format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest(blob), blob.len())
        };
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{KIND}","config":{},"layers":[{},{}]}}"#,
            named("application/vnd.docker.container.image.v1+json", &blobs[2]),
            named(layer, &blobs[0]),
            named(layer, &blobs[1]),
        );
        Self { blobs, manifest }
    }

    fn digest(&self) -> Digest {
        digest(self.manifest.as_bytes())
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// A repository as docker calls it: behind the registry's name.
fn path(dialect: &Dialect, repository: &str, rest: &str) -> String {
    format!("/v2/{}/{repository}/{rest}", dialect.name)
}

impl<'a> Forebay<'a> {
    /// That takes pushes, and a client that shows what the mode wants; `user` is the registry's.
    async fn for_pushes(internet: &'a Internet, dialect: &Dialect, mode: Mode, user: (&str, &str)) -> Self {
        let (keys, of_forebay, shown) = match mode {
            Mode::Shared => (credentials(dialect, user.0, user.1), Some(ANN), ANN),
            Mode::Client => ("access = \"client\"".to_owned(), None, user),
        };
        let keys = format!("{keys}\npush = true");
        let forebay = Self::start(internet, &[(dialect, &keys)], of_forebay).await;
        Self { authorization: Some(basic(shown.0, shown.1)), ..forebay }
    }

    async fn manifest(&self, dialect: &Dialect, repository: &str, reference: &str) -> Answer {
        let path = path(dialect, repository, &format!("manifests/{reference}"));
        self.send(Method::GET, &path, &[("accept", KIND)], "").await
    }

    /// Begins an upload; where it goes on.
    async fn begin(&self, dialect: &Dialect, repository: &str, query: &str) -> Result<Answer, Refused> {
        let begun = self.ask(Method::POST, &path(dialect, repository, &format!("blobs/uploads/{query}"))).await;
        match begun.status {
            201 | 202 => Ok(begun),
            status => Err((status, begun.error_code())),
        }
    }

    /// Sends a blob to where an upload goes on.
    async fn go_on(&self, begun: &Answer, content: &Bytes) -> Result<(), Refused> {
        let typed = [("content-type", "application/octet-stream")];
        let patched = self.send(Method::PATCH, begun.header("location").unwrap(), &typed, content.clone()).await;
        if patched.status != 202 {
            return Err((patched.status, patched.error_code()));
        }
        let end = format!("{}&digest={}", patched.header("location").unwrap(), digest(content));
        let put = self.ask(Method::PUT, &end).await;
        if put.status == 201 { Ok(()) } else { Err((put.status, put.error_code())) }
    }

    async fn push(&self, dialect: &Dialect, repository: &str, tags: &[&str], image: &Made) -> Result<(), Refused> {
        for blob in &image.blobs {
            let there = self.ask(Method::HEAD, &path(dialect, repository, &format!("blobs/{}", digest(blob)))).await;
            if there.status == 200 {
                continue;
            }
            let begun = self.begin(dialect, repository, "").await?;
            assert_eq!((there.status, begun.status), (404, 202), "{}", self.program.log());
            self.go_on(&begun, blob).await?;
        }
        for tag in tags {
            let path = path(dialect, repository, &format!("manifests/{tag}"));
            let put = self.send(Method::PUT, &path, &[("content-type", KIND)], image.manifest.clone()).await;
            if put.status != 201 {
                return Err((put.status, put.error_code()));
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn users_push_all_tags_pull_and_delete_them() {
    for dialect in ALL {
        for (mode, user) in MODES.into_iter().flat_map(|mode| dialect.users.iter().map(move |user| (mode, *user))) {
            let internet = Internet::of(&[*dialect]).await;
            let forebay = Forebay::for_pushes(&internet, dialect, mode, user).await;
            let what = format!("{} {mode:?} {}", dialect.name, user.0);
            assert_eq!(forebay.log_in(dialect).await, Ok(()), "{what}");
            for repository in dialect.empty {
                pushes_and_deletes(&internet, &forebay, dialect, repository, &what).await;
            }
            internet.assert_secrets_kept_by_writer();
        }
    }
}

async fn pushes_and_deletes(
    internet: &Internet,
    forebay: &Forebay<'_>,
    dialect: &Dialect,
    repository: &str,
    what: &str,
) {
    let (image, tags) = (Made::new(1), ["1", "2", "latest"]);
    let pushed = forebay.push(dialect, repository, &tags, &image).await;
    assert_eq!(pushed, Ok(()), "{what}: {}", forebay.program.log());
    assert_eq!(internet.tags(dialect, repository), tags, "{what}");
    let there = internet.manifest(dialect, repository, "latest").unwrap();
    assert_eq!(there, (image.digest().to_string(), KIND.to_owned(), image.manifest.clone().into()), "{what}");
    for tag in tags {
        let got = forebay.manifest(dialect, repository, tag).await;
        assert_eq!(ok(got).unwrap().text(), image.manifest, "{what}");
    }
    for blob in &image.blobs {
        let got = forebay.get(&path(dialect, repository, &format!("blobs/{}", digest(blob)))).await;
        assert_eq!(ok(got).unwrap().body, blob, "{what}");
        assert_eq!(internet.blob(dialect, repository, digest(blob).as_str()), blob, "{what}");
    }
    // A tag moves to another image.
    let newer = Made::new(2);
    assert_eq!(forebay.push(dialect, repository, &["latest"], &newer).await, Ok(()), "{what}");
    assert_eq!(forebay.manifest(dialect, repository, "latest").await.text(), newer.manifest, "{what}");

    let manifest = format!("manifests/{}", image.digest());
    let deleted = forebay.ask(Method::DELETE, &path(dialect, repository, &manifest)).await;
    let Some(Refusal(status, _)) = dialect.delete else {
        assert_eq!(deleted.status, 202, "{what}: {}", forebay.program.log());
        assert_eq!(internet.tags(dialect, repository), ["latest"], "{what}");
        for reference in ["1", "2", image.digest().as_str()] {
            let gone = forebay.manifest(dialect, repository, reference).await;
            assert_eq!((gone.status, &*gone.error_code()), (404, "MANIFEST_UNKNOWN"), "{what}: {reference}");
        }
        return;
    };
    // The registry's own word.
    assert_eq!((deleted.status, &*deleted.error_code()), (status, "UNSUPPORTED"), "{what}");
    assert!(deleted.text().contains("The operation is unsupported."), "{what}: {}", deleted.text());
    assert_eq!(forebay.manifest(dialect, repository, "1").await.text(), image.manifest, "{what}");
}

#[tokio::test]
async fn each_action_has_a_token_of_its_own() {
    for dialect in ALL.into_iter().filter(|dialect| dialect.realm.is_some()) {
        for mode in MODES {
            let internet = Internet::of(&[*dialect]).await;
            let forebay = Forebay::for_pushes(&internet, dialect, mode, dialect.users[0]).await;
            let repository = dialect.empty[0];
            let image = Made::new(1);
            assert_eq!(forebay.push(dialect, repository, &["1"], &image).await, Ok(()));
            forebay.ask(Method::DELETE, &path(dialect, repository, &format!("manifests/{}", image.digest()))).await;
            let realm = dialect.realm.unwrap().url;
            let asked = internet.seen().into_iter().filter(|seen| seen.url().split('?').next() == Some(realm));
            let mut scopes: Vec<String> = asked.map(|seen| seen.parameter("scope").join(" ")).collect();
            scopes.retain(|scope| !scope.is_empty());
            scopes.sort();
            scopes.dedup();
            let of = |actions: &str| format!("repository:{repository}:{actions}");
            assert_eq!(scopes, ["pull", "pull,push", "pull,push,delete"].map(of), "{} {mode:?}", dialect.name);
        }
    }
}

/// Made, or an upload that begins, or refused altogether: then an upload begins all the same.
#[tokio::test]
async fn a_mount_is_made_or_becomes_an_upload() {
    for dialect in ALL {
        for mode in MODES {
            let internet = Internet::of(&[*dialect]).await;
            let forebay = Forebay::for_pushes(&internet, dialect, mode, dialect.users[0]).await;
            let (from, to) = (dialect.private[0], dialect.empty[0]);
            let layer = internet.image(dialect, from).layers[0].clone();
            let content = internet.blob(dialect, from, layer.as_str());
            let query = format!("?mount={layer}&from={}%2F{}", dialect.name, from.replace('/', "%2F"));
            let begun = forebay.begin(dialect, to, &query).await.unwrap();
            let what = format!("{} {mode:?}: {}", dialect.name, forebay.program.log());
            match dialect.mount {
                Mount::Made => assert_eq!(begun.status, 201, "{what}"),
                Mount::Begun | Mount::Refused(_) => {
                    assert_eq!(begun.status, 202, "{what}");
                    assert_eq!(forebay.go_on(&begun, &content).await, Ok(()), "{what}");
                }
            }
            assert_eq!(internet.blob(dialect, to, layer.as_str()), content, "{what}");
            internet.assert_secrets_kept_by_writer();
        }
    }
}

/// Docker tries a mount for each layer. What the registry says to it is no word on the password.
#[tokio::test]
async fn mounts_that_are_refused_lock_out_no_client() {
    let dialect = &qingcloud::PASSWORDS;
    let internet = Internet::of(&[*dialect]).await;
    let forebay = Forebay::for_pushes(&internet, dialect, Mode::Client, dialect.users[0]).await;
    let layer = internet.image(dialect, "team/app").layers[0].clone();
    for number in 0..50 {
        let begun =
            forebay.begin(dialect, "pushed", &format!("?mount={layer}&from={}%2Fteam%2Fapp", dialect.name)).await;
        assert_eq!(begun.map(|begun| begun.status), Ok(202), "{number}: {}", forebay.program.log());
    }
}

/// A client's is told so in the registry's own words, where it pushes as where it logs in.
#[tokio::test]
async fn with_a_wrong_password_nothing_is_pushed() {
    for dialect in ALL {
        for mode in MODES {
            let internet = Internet::of(&[*dialect]).await;
            let wrong = (dialect.users[0].0, "wrong");
            let forebay = Forebay::for_pushes(&internet, dialect, mode, wrong).await;
            let repository = dialect.empty[0];
            let refused = match mode {
                Mode::Shared => (403, "UNAVAILABLE".to_owned()),
                Mode::Client => refused_directly(&internet.login(dialect, wrong)),
            };
            let what = format!("{} {mode:?}", dialect.name);
            if mode == Mode::Client {
                assert_eq!(forebay.log_in(dialect).await, Err(refused.clone()), "{what}");
            }
            let begun = forebay.begin(dialect, repository, "").await;
            assert_eq!(begun.map(|begun| begun.status), Err(refused.clone()), "{what}: {}", forebay.program.log());
            let manifest = path(dialect, repository, "manifests/1");
            let put = forebay.send(Method::PUT, &manifest, &[("content-type", KIND)], Made::new(1).manifest).await;
            assert_eq!((put.status, put.error_code()), refused, "{what}: {}", forebay.program.log());
            assert!(internet.tags(dialect, repository).is_empty(), "{what}");
            internet.assert_secrets_kept_by_writer();
        }
    }
}

/// Nor does none at all, or the registry's own, where forebay's credentials decide.
#[tokio::test]
async fn a_wrong_password_at_forebay_reaches_no_registry() {
    let dialect = &tencent::CCR;
    let internet = Internet::of(&[*dialect]).await;
    let user = dialect.users[0];
    let mut forebay = Forebay::for_pushes(&internet, dialect, Mode::Shared, user).await;
    for shown in [None, Some(basic(ANN.0, "wrong")), Some(basic(user.0, user.1))] {
        forebay.authorization = shown;
        let begun = forebay.begin(dialect, "team/pushed", "").await;
        assert_eq!(begun.map(|begun| begun.status), Err((401, "UNAUTHORIZED".to_owned())));
    }
    assert!(internet.seen().is_empty());
}

/// It cannot be sent again by forebay, and clients begin again where that may help.
#[tokio::test]
async fn where_a_token_dies_in_the_middle_the_client_may_try_again() {
    for dialect in ALL.into_iter().filter(|dialect| dialect.realm.is_some()) {
        for mode in MODES {
            let internet = Internet::of(&[*dialect]).await;
            let forebay = Forebay::for_pushes(&internet, dialect, mode, dialect.users[0]).await;
            let (repository, image) = (dialect.empty[0], Made::new(1));
            let begun = forebay.begin(dialect, repository, "").await.unwrap();
            internet.revoke_tokens_at_next_part(dialect);
            let refused = forebay.go_on(&begun, &image.blobs[0]).await;
            let what = format!("{} {mode:?}: {}", dialect.name, forebay.program.log());
            assert_eq!(refused, Err((502, "UNAVAILABLE".to_owned())), "{what}");
            assert_eq!(forebay.push(dialect, repository, &["1"], &image).await, Ok(()), "{what}");
            internet.assert_secrets_kept_by_writer();
        }
    }
}

/// As of a registry behind a front end that calls itself by another name: nothing goes there.
#[tokio::test]
async fn an_upload_that_is_to_go_on_at_another_host_does_not() {
    for dialect in ALL {
        let elsewhere = Dialect {
            upload: "https://elsewhere.example/v2/{repository}/blobs/uploads/{session}?_state={state}",
            ..*dialect
        };
        for mode in MODES {
            let internet = Internet::of(&[elsewhere]).await;
            let forebay = Forebay::for_pushes(&internet, &elsewhere, mode, dialect.users[0]).await;
            let begun = forebay.begin(&elsewhere, dialect.empty[0], "").await;
            assert_eq!(
                begun.map(|begun| begun.status),
                Err((502, "UNAVAILABLE".to_owned())),
                "{} {mode:?}",
                dialect.name
            );
            assert_eq!(internet.count(|seen| seen.origin.contains("elsewhere")), 0);
        }
    }
}
