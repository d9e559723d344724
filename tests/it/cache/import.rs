//! Imports: an image of an archive is served as if it had been pulled, or nothing of it has a name.

use std::{fs, path::Path};

use bytes::Bytes;
use forebay::{
    oci::Digest,
    tar::{END, file_header},
};
use forebay_test_support::{
    blob,
    control::{ask, events, get, post},
    fake_registry::{FakeRegistry, Server},
    layout::{self, TwoPlatforms, archive, file, files, image_files},
    manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, manifest},
    mirror::{Builder, Mirror},
    test_server::client,
    until::until,
    wire,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

const FOREBAY: &str = env!("CARGO_BIN_EXE_forebay");
const NAME: &str = "fake.example/team/app:1";

/// A mirror whose upstream cannot be reached, and the upstream.
async fn alone(change: impl FnOnce(Builder) -> Builder) -> (Mirror, FakeRegistry) {
    let registry = FakeRegistry::start().await;
    registry.take_down(Server::Api).await;
    (change(Mirror::build(&registry)).start().await, registry)
}

/// What the command prints.
async fn import(mirror: &Mirror, arguments: &[&str]) -> (Option<i32>, String, String) {
    let all = [&["cache", "import", "--yes"], arguments].concat();
    let (code, stdout, stderr) = mirror.command(FOREBAY, &all).await;
    (code, String::from_utf8(stdout).unwrap(), stderr)
}

/// The same for an archive in memory.
async fn import_bytes(mirror: &Mirror, archive: &[u8], arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.tar");
    fs::write(&path, archive).unwrap();
    import(mirror, &[&[path.to_str().unwrap()], arguments].concat()).await
}

/// Whether an unfinished file is in the cache.
fn has_temporary_files(mirror: &Mirror) -> bool {
    fs::read_dir(mirror.cache_dir().join("tmp")).unwrap().count() > 0
}

async fn assert_served(mirror: &Mirror, digest: &Digest, images: &[&forebay_test_support::fake_registry::Image]) {
    for accept in [OCI_INDEX, "*/*", &format!("{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}")] {
        let tag = mirror.get_with(&manifest("1"), &[("accept", accept)]).await;
        assert_eq!((tag.status, tag.header("docker-content-digest")), (200, Some(digest.as_str())), "{accept}");
        assert_eq!(tag.header("cache-status"), Some("forebay; hit"), "{accept}");
    }
    assert_eq!(mirror.head(&manifest("1")).await.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(mirror.get(&manifest(digest)).await.status, 200);
    for image in images {
        assert_eq!(mirror.get(&manifest(&image.manifest)).await.body, image.manifest_bytes);
        for digest in TwoPlatforms::blobs(image) {
            let answer = mirror.get(&blob::path(&digest)).await;
            assert!(answer.status == 200 && blob::is(&answer.body, &digest), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_forebay_serves_what_the_first_exported() {
    let TwoPlatforms { registry, digest, amd64, arm64 } = TwoPlatforms::new().await;
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.tar");
    let first = Mirror::of(&registry).await;
    let (code, _, error) = first.command(FOREBAY, &["cache", "export", "-o", bundle.to_str().unwrap(), NAME]).await;
    assert_eq!((code, &*error), (Some(0), ""));

    let (mut second, other) = alone(|mirror| mirror.config(|config| config.cache.tag_ttl = Default::default())).await;
    assert_ne!(second.get(&manifest("1")).await.status, 200);
    let (code, text, error) = import(&second, &[bundle.to_str().unwrap()]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert!(text.starts_with(&format!("{NAME}  {digest}  ")), "{text}");
    for _ in 0..2 {
        assert_served(&second, &digest, &[&amd64, &arm64]).await;
        let image = until("the inventory has it", async || {
            let url = format!("http://{}/api/v1/images", second.app().admin_addr());
            let answer: Value =
                serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap();
            let image = answer["images"][0].clone();
            (image["complete"] == true).then_some(image)
        })
        .await;
        assert_eq!((&image["name"], &image["digest"]), (&NAME.into(), &digest.as_str().into()));
        second.restart().await;
    }
    assert!(!has_temporary_files(&second));

    // The registry can be reached, and says something else: the tag is frozen.
    let moved = other.add_image("team/app", "1", &[b"another layer"]);
    other.bring_up(Server::Api).await;
    assert_served(&second, &digest, &[&amd64]).await;
    assert_eq!(other.count(|_| true), 0);
    // Other tags are not.
    other.tag("team/app", "2", &moved.manifest);
    let answer = second.get(&manifest("2")).await;
    assert_eq!(answer.header("docker-content-digest"), Some(moved.manifest.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_leaves_an_imported_tag_that_no_registry_has() {
    let (mirror, registry) = alone(|mirror| mirror).await;
    let (code, _, error) = import_bytes(&mirror, &archive(&image_files(Some(NAME), &b"layer"[..])), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    registry.bring_up(Server::Api).await;
    let (code, text, error) = mirror.command(FOREBAY, &["cache", "refresh", NAME]).await;
    let text = String::from_utf8(text).unwrap();
    let kept = format!("{NAME}: the registry has no such tag; it is imported, so it stays as it is in the cache\n");
    assert_eq!((code, &*text), (Some(1), &*kept), "{error}");
    let answer = mirror.get(&manifest("1")).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, Some("forebay; hit")));
    // The registry has one now.
    let image = registry.add_image("team/app", "1", &[b"another layer"]);
    assert_eq!(mirror.command(FOREBAY, &["cache", "refresh", NAME]).await.0, Some(0));
    let answer = mirror.get(&manifest("1")).await;
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_tag_is_held_against_eviction() {
    let (mirror, registry) = alone(|mirror| mirror.max_size(3 << 20)).await;
    let (code, _, error) = import_bytes(&mirror, &archive(&image_files(Some(NAME), vec![1; 1 << 20])), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    registry.bring_up(Server::Api).await;
    for number in 0..5 {
        let (digest, _) = blob::add(&registry, 1 << 20, number);
        assert_eq!(mirror.get(&blob::path(&digest)).await.status, 200);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
    registry.take_down(Server::Api).await;
    let tag = mirror.get(&manifest("1")).await;
    let document: Value = serde_json::from_slice(&tag.body).unwrap();
    let layer: Digest = document["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(mirror.get(&blob::path(&layer)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_of_files_and_a_directory_are_taken() {
    let (mirror, _registry) = alone(|mirror| mirror).await;
    // As skopeo writes it: the index comes last, and has the tag alone.
    let mut reversed = image_files(Some("1"), &b"a layer"[..]);
    reversed.reverse();
    let bytes = archive(&reversed);
    let (code, _, error) = import_bytes(&mirror, &bytes, &[]).await;
    assert!(code == Some(2) && error.contains("no whole name of its image, but the tag \"1\""), "{error}");
    assert!(error.contains("--as") && mirror.get(&manifest("1")).await.status != 200, "{error}");
    let (code, text, error) = import_bytes(&mirror, &bytes, &["--as", NAME, "--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    assert_eq!((code, &answer["images"][0]["name"]), (Some(0), &NAME.into()), "{error}");
    assert_eq!(mirror.get(&manifest("1")).await.status, 200);

    let directory = tempfile::tempdir().unwrap();
    for (name, content) in image_files(None, &b"another layer"[..]) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let path = directory.path().to_str().unwrap();
    let (code, _, error) = import(&mirror, &[path, "--as", "fake.example/team/app:2"]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(mirror.get(&manifest("2")).await.status, 200);

    // A part of an index, as of other platforms, may be missing; what is in the cache may be, too.
    let known = image_files(Some("fake.example/team/app:3"), &b"another layer"[..]);
    let (code, _, error) = import_bytes(&mirror, &archive(&known[..3]), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    let (code, _, error) = import(&mirror, &["/nonexistent"]).await;
    assert!(code == Some(2) && error.contains("cannot read /nonexistent"), "{error}");
    let wrong = directory.path().join("wrong");
    for (content, problem) in
        [(&b"\x1f\x8b\x08 a tar.gz"[..], "gunzip it first"), (b"fake.example/team/app:1\n", "no tar archive")]
    {
        fs::write(&wrong, content).unwrap();
        let (code, _, error) = import(&mirror, &[wrong.to_str().unwrap()]).await;
        assert!(code == Some(2) && error.contains(problem), "{error}");
    }
}

/// The header of an entry of this kind.
fn special(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut header = file_header(name, size);
    header[156] = kind;
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The archive of these files, whose index has so many images of one name.
fn with_images(files: &[(String, Bytes)], count: usize) -> Vec<u8> {
    const NAME: &str = r#"{"org.opencontainers.image.ref.name":"fake.example/a:b"}"#;
    let entry = |number: usize| {
        format!(r#"{{"mediaType":"a/b","digest":"sha256:{number:064x}","size":1,"annotations":{NAME}}}"#)
    };
    let entries: Vec<String> = (0..count).map(entry).collect();
    let mut files = files.to_vec();
    files[1].1 = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into();
    archive(&files)
}

/// An archive of so many images, each of which is an index of the same manifests.
fn with_the_same_manifests(manifests: usize, images: usize) -> Vec<u8> {
    let mut files = image_files(None, &b"a layer"[..]);
    let manifest: Value = serde_json::from_slice(&files[2].1).unwrap();
    let manifests = (0..manifests).map(|number| {
        let mut manifest = manifest.clone();
        manifest["annotations"] = json!({ "number": number.to_string() });
        layout::blob(manifest.to_string())
    });
    let manifests: Vec<_> = manifests.collect();
    let descriptor = |kind: &str, (path, content): &(String, Bytes)| {
        let digest = format!("sha256:{}", path.rsplit('/').next().unwrap());
        json!({ "mediaType": kind, "digest": digest, "size": content.len() })
    };
    let children: Vec<_> = manifests.iter().map(|manifest| descriptor(OCI_MANIFEST, manifest)).collect();
    let index = layout::blob(json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children }).to_string());
    let image = |number: usize| {
        let mut entry = descriptor(OCI_INDEX, &index);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("fake.example/a:{number}") });
        entry
    };
    let images: Vec<_> = (0..images).map(image).collect();
    files[1].1 = json!({ "schemaVersion": 2, "manifests": images }).to_string().into();
    files.push(index);
    files.extend(manifests);
    archive(&files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_lies_about_its_size_evicts_nothing() {
    let (mirror, _registry) = alone(|mirror| mirror.max_size(64 << 20)).await;
    let kept = image_files(Some(NAME), vec![1; 30 << 20]);
    assert_eq!(import_bytes(&mirror, &archive(&kept), &[]).await.0, Some(0));
    let (_, digest) = kept[4].0.rsplit_once('/').unwrap();
    let file = blob::file(&mirror.cache_dir(), &format!("sha256:{digest}").parse().unwrap());
    assert!(file.exists());
    // As with an archive from a pipe, of which nothing says how long it is.
    let lying = [file_header(&image_files(None, vec![2; 9])[4].0, 60 << 20), vec![2; 1 << 20]].concat();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lying.tar");
    fs::write(&path, lying).unwrap();
    let script = format!("cat {0} | \"$1\" cache import --yes --control \"$2\" -", path.display());
    let mut command = tokio::process::Command::new("sh");
    let socket = mirror.config().admin.socket.clone().unwrap();
    let output = command.args(["-c", &script, "sh", FOREBAY]).arg(socket).output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("the archive ends early"), "{error}");
    assert!(file.exists(), "what the cache had is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_not_as_it_should_be_leaves_no_name() {
    let (mirror, _registry) = alone(|mirror| mirror.max_size(256 << 20)).await;
    let good = image_files(Some(NAME), vec![3; 70_000]);
    let changed = |place: usize, change: &dyn Fn(&mut (String, Bytes))| {
        let mut files = good.clone();
        change(&mut files[place]);
        archive(&files)
    };
    let with_first = |first: Vec<u8>| [first, archive(&good)].concat();
    let without = |place: usize| {
        let mut files = good.clone();
        files.remove(place);
        archive(&files)
    };
    let whole = archive(&good);
    // What is in the cache already is not missing.
    let unknown = image_files(Some(NAME), vec![6; 70_000]);
    let large = image_files(Some(NAME), vec![4; 17 << 20]);
    let mut large_wrong = archive(&large);
    let middle = large_wrong.len() / 2;
    large_wrong[middle] ^= 1;
    let size = |name: &str, size: u64| with_first(file_header(name, size));
    for (what, archive, problem) in [
        ("a wrong layer", changed(4, &|(_, content)| *content = vec![5; 70_000].into()), "does not match its digest"),
        ("a wrong manifest", changed(2, &|(_, content)| *content = "{}".into()), "does not match its digest"),
        ("a large wrong layer", large_wrong, "does not match its digest"),
        ("a short layer", changed(4, &|(_, content)| content.truncate(9)), "does not match its digest"),
        ("a way out", changed(3, &|(name, _)| *name = "../../etc/passwd".to_owned()), "is no file of an image layout"),
        ("a root", changed(3, &|(name, _)| name.insert(0, '/')), "is no file of an image layout"),
        ("another file", with_first(file("x", b"")), "\"x\" is no file of an image layout"),
        ("a symbolic link", with_first(special("index.json", b'2', 0)), "\"index.json\" is no plain file"),
        ("a hard link", with_first(special("oci-layout", b'1', 0)), "\"oci-layout\" is no plain file"),
        ("a device", with_first(special("oci-layout", b'3', 0)), "is no plain file"),
        ("a sparse file", with_first(special("oci-layout", b'S', 0)), "is a sparse file"),
        ("a huge blob", size(&good[4].0, 1 << 62), "and the cache has room for 268435456"),
        ("the largest blob", size(&good[4].0, u64::MAX), "and the cache has room for 268435456"),
        ("a blob that ends early", size(&good[4].0, 100 << 20), "the archive ends early"),
        ("a long list for Docker", size("manifest.json", 1 << 40), "manifest.json is longer than 16777216 bytes"),
        ("headers alone", special("x", b'g', 0).repeat(100), "more than 16 extended headers"),
        ("zeros without end", [&whole[..], &vec![0; 17 << 20]].concat(), "bytes follow the end of the archive"),
        ("many images", with_images(&good, 90_000), "names 90000 images; there may be 1 to 500"),
        ("more of them", with_images(&good, 100_000), "index.json is longer than 16777216 bytes"),
        ("one name for two", with_images(&good, 2), "several images that would be fake.example/a:b"),
        ("the same manifests again and again", with_the_same_manifests(101, 500), "have too many manifests"),
        ("a long index", size("index.json", 1 << 40), "index.json is longer than 16777216 bytes"),
        ("a long layout", size("oci-layout", 1 << 20), "oci-layout is longer than 4096 bytes"),
        ("a long header", with_first(special("x", b'x', 1 << 20)), "extended header of the archive is longer"),
        ("a name twice", with_first(file("oci-layout", &good[0].1)), "\"oci-layout\" is in the archive twice"),
        ("a blob twice", with_first(file(&good[4].0, &good[4].1)), "is in the archive twice"),
        ("a cut archive", whole[..whole.len() - 2000].to_vec(), "the archive ends early"),
        ("a cut header", whole[..700].to_vec(), "the archive ends early"),
        ("no index", without(1), "this is no image layout: there is no index.json"),
        ("no layout", without(0), "this is no image layout: there is no oci-layout"),
        ("no manifest", without(2), "is missing"),
        ("no layer", archive(&unknown[..4]), "is missing"),
        ("no archive", b"<html>".repeat(1000), "this is no tar archive"),
        ("nothing", Vec::new(), "the archive ends early"),
        ("an empty archive", END.to_vec(), "there is no oci-layout"),
        ("no image", changed(1, &|(_, content)| *content = r#"{"schemaVersion":2}"#.into()), "names 0 images"),
        ("no JSON", changed(1, &|(_, content)| *content = "{".into()), "index.json of the archive cannot be used"),
        ("a version", changed(0, &|(_, content)| *content = r#"{"imageLayoutVersion":"2.0"}"#.into()), "of a version"),
        ("many entries", with_first(special("blobs/", b'5', 0).repeat(50_001)), "more than 50000 entries"),
    ] {
        let (code, text, error) = import_bytes(&mirror, &archive, &[]).await;
        assert!(code != Some(0) && text.is_empty() && error.contains(problem), "{what}: {error}");
        assert_ne!(mirror.get(&manifest("1")).await.status, 200, "{what}");
        assert!(!has_temporary_files(&mirror), "{what}");
        blob::assert_verified(&mirror.cache_dir());
    }
    let (code, _, error) = import_bytes(&mirror, &archive(&large), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(mirror.get(&manifest("1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_half_way_leaves_no_name() {
    let (mirror, _registry) = alone(|mirror| mirror).await;
    let whole = archive(&image_files(Some(NAME), vec![3; 18 << 20]));
    let socket = mirror.config().admin.socket.clone().unwrap();
    let head = |len: usize| format!("POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n");
    let mut client = UnixStream::connect(&socket).await.unwrap();
    client.write_all(head(whole.len()).as_bytes()).await.unwrap();
    client.write_all(&whole[..whole.len() / 2]).await.unwrap();
    until("half of the layer is written", async || has_temporary_files(&mirror)).await;
    // Another one has to wait meanwhile.
    let (code, _, error) = import_bytes(&mirror, &whole, &[]).await;
    assert!(code == Some(1) && error.contains("another import is running"), "{error}");
    // So has a removal: the image may share a layer with what is removed.
    let (status, answer) = ask(&mirror, "DELETE", "images?match=*", None).await;
    assert!(status == 429 && answer.contains("another removal or an import is running"), "{answer}");
    drop(client);
    until("what came of it is removed", async || !has_temporary_files(&mirror)).await;
    assert_ne!(mirror.get(&manifest("1")).await.status, 200);
    until("the next one is taken", async || import_bytes(&mirror, &whole, &[]).await.0 == Some(0)).await;
    assert_eq!(mirror.get(&manifest("1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_forebay_does_not_serve_is_refused_at_once() {
    let (mirror, _registry) = alone(|mirror| mirror).await;
    // The layer is never sent to its end.
    let mut endless = archive(&image_files(Some("quay.io/org/app:1"), vec![3; 40 << 20]));
    endless.truncate(30 << 20);
    let (code, _, error) = import_bytes(&mirror, &endless, &[]).await;
    assert!(code == Some(2) && error.contains("quay.io, which is no upstream: add an [[upstream]]"), "{error}");
    // The command reads the answer although it has not sent all of it.
    let (code, _, error) = import_bytes(&mirror, &endless, &["--as", "A B"]).await;
    assert!(code == Some(2) && error.contains("is no name of an image"), "{error}");
    let (listener, path) = (format!("http://{}", mirror.app().admin_addr()), tempfile::NamedTempFile::new().unwrap());
    fs::write(path.path(), &endless).unwrap();
    let mut command = tokio::process::Command::new(FOREBAY);
    command.args(["cache", "import", "--yes", "--control", &listener]).arg(path.path());
    let error = String::from_utf8(command.output().await.unwrap().stderr).unwrap();
    assert!(error.contains("set admin.token_file"), "{error}");
    for (name, arguments, code, problem) in [
        (Some(NAME), &["--as", "quay.io/org/app:1"][..], 2, "which is no upstream"),
        (Some(NAME), &["--as", "A B"], 2, "is no name of an image"),
        (Some("latest"), &[], 2, "give it one with --as"),
        (None, &[], 2, "the archive has no whole name of its image: give it one with --as"),
        (Some("fake.example/team/app@sha256:0123"), &[], 2, "is no name of an image"),
    ] {
        let bytes = archive(&image_files(name, &b"layer"[..]));
        let (found, _, error) = import_bytes(&mirror, &bytes, arguments).await;
        assert!(found == Some(code) && error.contains(problem), "{name:?} {arguments:?}: {error}");
    }
    let (mirror, _registry) = alone(|mirror| mirror.max_size(10 << 20)).await;
    let (code, _, error) = import_bytes(&mirror, &archive(&image_files(Some(NAME), vec![3; 18 << 20])), &[]).await;
    assert!(code == Some(1) && error.contains("the cache has room for 10485760"), "{error}");
    let text = "[[upstream]]\nname = \"fake.example\"\nurls = [\"http://127.0.0.1:1\"]\naccess = \"client\"\n";
    let mirror = Mirror::parse(text).start().await;
    let (code, _, error) = import_bytes(&mirror, &archive(&image_files(Some(NAME), &b"layer"[..])), &[]).await;
    assert!(code == Some(2) && error.contains("has access = \"client\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_by_the_admin_listener_needs_the_token() {
    let (mirror, _registry) = alone(|mirror| mirror).await;
    let request = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(wire::send(mirror.app().admin_addr(), request).await.status, 403);
    // Without a person to ask, the command needs a word.
    let (code, _, error) = mirror.command(FOREBAY, &["cache", "import", "-"]).await;
    assert!(code == Some(2) && error.contains("needs --yes"), "{error}");
    // What curl would send, and a reader of the answer that is slow.
    let socket = mirror.config().admin.socket.clone().unwrap();
    let mut client = UnixStream::connect(&socket).await.unwrap();
    let bytes = archive(&image_files(Some(NAME), &b"layer"[..]));
    let head = "POST /api/v1/import?as=fake.example/team/app:7 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    for piece in bytes.chunks(700) {
        client.write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await.unwrap();
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"fake.example/team/app:7\""), "{answer}");
    assert_eq!(mirror.get(&manifest("7")).await.status, 200);
}

/// What an exported archive has of an image that was imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_image_is_exported_as_it_came() {
    let (mirror, _registry) = alone(|mirror| mirror).await;
    let came = image_files(Some(NAME), &b"layer"[..]);
    assert_eq!(import_bytes(&mirror, &archive(&came), &[]).await.0, Some(0));
    let (code, archive, error) = mirror.command(FOREBAY, &["cache", "export", "-o", "-", NAME]).await;
    assert_eq!(code, Some(0), "{error}");
    let blobs = |files: &[(String, Bytes)]| {
        let mut blobs: Vec<_> =
            files.iter().filter(|(name, _)| Path::new(name).starts_with("blobs")).cloned().collect();
        blobs.sort();
        blobs
    };
    assert_eq!(blobs(&files(&archive)), blobs(&came));
}

/// Its state in the list of images, and the pins.
async fn pinned(mirror: &Mirror) -> (Value, Vec<(Value, Value)>) {
    let (image, pins) = until("all is read, and both say the same", async || {
        let (images, pins) = (get(mirror, "images").await, get(mirror, "pins").await);
        let (image, pins) = (images["images"][0].clone(), pins["pins"].as_array().unwrap().clone());
        (images["reading"] == false && image["pinned"] == !pins.is_empty()).then_some((image, pins))
    })
    .await;
    (image["pinned"].clone(), pins.iter().map(|pin| (pin["match"].clone(), pin["imported"].clone())).collect())
}

async fn refresh(mirror: &Mirror) -> Value {
    let (_, body) = ask(mirror, "POST", "images/refresh", Some(json!({ "match": NAME }))).await;
    events(&body)[0].1["result"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_tag_is_pinned_and_frozen_until_a_refresh() {
    let (mut mirror, registry) =
        alone(|mirror| mirror.max_size(3 << 20).config(|config| config.cache.tag_ttl = Default::default())).await;
    let bytes = archive(&image_files(Some(NAME), vec![1; 1 << 20]));
    let (code, _, error) = import_bytes(&mirror, &bytes, &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    let digest = mirror.get(&manifest("1")).await.header("docker-content-digest").unwrap().to_owned();
    let moved = registry.add_image("team/app", "1", &[b"another layer"]);
    for _ in 0..2 {
        assert_eq!(pinned(&mirror).await, (true.into(), vec![(NAME.into(), true.into())]));
        assert!(mirror.metric("forebay_cache_pinned_bytes", &[]).await > f64::from(1 << 20));
        let (_, text, _) = mirror.command(FOREBAY, &["cache", "pin"]).await;
        assert!(String::from_utf8(text).unwrap().contains(&format!("{NAME}  a refresh (imported)")));
        // A refresh that fails ends nothing.
        assert_eq!(refresh(&mirror).await, "failed");
        registry.bring_up(Server::Api).await;
        let tag = mirror.get(&manifest("1")).await;
        assert_eq!(tag.header("docker-content-digest"), Some(&*digest), "it is frozen");
        registry.take_down(Server::Api).await;
        mirror.restart().await;
    }
    registry.bring_up(Server::Api).await;
    assert_eq!(refresh(&mirror).await, "changed");
    for _ in 0..2 {
        let tag = mirror.get(&manifest("1")).await;
        assert_eq!(tag.header("docker-content-digest"), Some(moved.manifest.as_str()));
        assert_eq!(pinned(&mirror).await, (false.into(), vec![]));
        assert_eq!(mirror.metric("forebay_cache_pinned_bytes", &[]).await, 0.0);
        mirror.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_pins_have_no_room_for_names_nothing() {
    let (mut mirror, _registry) = alone(|mirror| mirror.max_size(20 << 20)).await;
    let image = |name: &str, byte: u8| archive(&image_files(Some(name), vec![byte; 9 << 20]));
    assert_eq!(import_bytes(&mirror, &image(NAME, 1), &[]).await.0, Some(0));
    let other = "fake.example/team/app:2";
    let (code, text, error) = import_bytes(&mirror, &image(other, 2), &[]).await;
    assert!(code == Some(1) && text.is_empty(), "{text}{error}");
    assert!(error.contains("an import is pinned: the pinned images would take 18.0 MiB"), "{error}");
    assert!(error.contains("and pins may keep 16.0 MiB: 80 % of cache.max_size"), "{error}");
    assert_ne!(mirror.get(&manifest("2")).await.status, 200);
    assert_eq!(pinned(&mirror).await.1, [(NAME.into(), true.into())]);
    // A newer image of the same name takes the place of the older one.
    let (code, _, error) = import_bytes(&mirror, &image(NAME, 3), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    // Without the pin the image can be removed, and with it what froze the tag.
    let (code, _, error) = mirror.command(FOREBAY, &["cache", "rm", NAME, "--yes"]).await;
    assert!(code == Some(1) && error.contains("1 image is pinned and stays; unpin it first"), "{error}");
    assert_eq!(mirror.command(FOREBAY, &["cache", "unpin", NAME]).await.0, Some(0));
    assert_eq!(mirror.command(FOREBAY, &["cache", "rm", NAME, "--yes"]).await.0, Some(0));
    let (code, _, error) = import_bytes(&mirror, &image(other, 2), &[]).await;
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!((mirror.get(&manifest("2")).await.status, mirror.get(&manifest("1")).await.status), (200, 502));

    mirror.restart_with(|config| config.state_directory = None).await;
    let (code, _, error) = import_bytes(&mirror, &image(NAME, 1), &[]).await;
    assert!(code == Some(1) && error.contains("forebay has no place for pins: set state_directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_of_an_operator_outlives_the_refresh_of_an_import() {
    let (mirror, registry) = alone(|mirror| mirror).await;
    registry.add_image("team/app", "1", &[b"another layer"]);
    let bytes = archive(&image_files(Some(NAME), &b"layer"[..]));
    for operator_is_first in [true, false] {
        if operator_is_first {
            assert_eq!(post(&mirror, "images/pin", json!({ "match": NAME })).await.0, 200);
        }
        assert_eq!(import_bytes(&mirror, &bytes, &[]).await.0, Some(0));
        assert_eq!(post(&mirror, "images/pin", json!({ "match": NAME })).await.0, 200);
        registry.bring_up(Server::Api).await;
        assert_eq!(refresh(&mirror).await, "changed");
        registry.take_down(Server::Api).await;
        assert_eq!(pinned(&mirror).await, (true.into(), vec![(NAME.into(), false.into())]));
        assert_eq!(post(&mirror, "images/unpin", json!({ "match": NAME })).await.0, 200);
    }
}

/// Who pins the image until when: `until`, `by_operator` and `imported`.
async fn only_pin(mirror: &Mirror) -> (Value, bool, bool) {
    let pins = get(mirror, "pins").await["pins"].clone();
    assert_eq!(pins.as_array().unwrap().len(), 1, "{pins}");
    (pins[0]["until"].clone(), pins[0]["by_operator"] == true, pins[0]["imported"] == true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_leaves_the_end_that_an_operator_gave() {
    let (mut mirror, registry) = alone(|mirror| mirror).await;
    registry.add_image("team/app", "1", &[b"another layer"]);
    let bytes = archive(&image_files(Some(NAME), &b"layer"[..]));
    let (_, answer) = post(&mirror, "images/pin", json!({ "match": NAME, "for": "30d" })).await;
    let until = answer["until"].clone();
    assert!(until.is_string(), "{answer}");
    assert_eq!(import_bytes(&mirror, &bytes, &[]).await.0, Some(0));
    mirror.restart().await;
    assert_eq!(only_pin(&mirror).await, (until.clone(), true, true));
    registry.bring_up(Server::Api).await;
    assert_eq!(refresh(&mirror).await, "changed");
    registry.take_down(Server::Api).await;
    assert_eq!(only_pin(&mirror).await, (until, true, false));

    // A warm that pins has its pin beside that of an import.
    assert_eq!(post(&mirror, "images/unpin", json!({ "match": NAME })).await.0, 200);
    assert_eq!(import_bytes(&mirror, &bytes, &[]).await.0, Some(0));
    assert_eq!(only_pin(&mirror).await, (Value::Null, false, true));
    let (status, told) = ask(&mirror, "POST", "warm", Some(json!({ "images": [NAME], "pin": "30d" }))).await;
    assert!(status == 200 && told.contains("\"cached\":1"), "{told}");
    let (until, by_operator, is_imported) = only_pin(&mirror).await;
    assert!(until.is_string() && by_operator && is_imported, "{until}");
    // To unpin means both.
    assert_eq!(post(&mirror, "images/unpin", json!({ "match": NAME })).await.0, 200);
    assert_eq!(get(&mirror, "pins").await["pins"], json!([]));
}
