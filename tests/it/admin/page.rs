//! The page of the admin listener: who gets it, and what it tells.

use forebay_test_support::{
    fake_registry::{Auth, FakeRegistry, Fault, When},
    mirror::{Answer, Mirror},
    test_server::client,
    until::until,
    users::basic,
    wire,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const ASSETS: [&str; 3] = ["/page/style.css", "/page/live.js", "/page/script.js"];

/// A GET of a path with these header lines.
async fn get(mirror: &Mirror, path: &str, host: &str, lines: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
    wire::send(mirror.app().admin_addr(), &request).await
}

async fn page(mirror: &Mirror, path: &str) -> String {
    let answer = get(mirror, path, "localhost", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
    answer.text().to_owned()
}

async fn with_token(registry: &FakeRegistry) -> Mirror {
    let mut mirror = Mirror::of(registry).await;
    mirror.restart_with_token(TOKEN).await;
    mirror
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_is_here_and_what_failed() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[b"a layer"]);
    registry.add_image("team/<b>", "1", &[]);
    let mirror = Mirror::of(&registry).await;
    let first = page(&mirror, "/").await;
    for expected in ["Yes: no person has to look.", "not asked yet", "Nothing yet.", "No image was found."] {
        assert!(first.contains(expected), "{expected}: {first}");
    }
    assert!(!first.contains("style=") && !first.contains("<style") && !first.contains(" onclick"));
    assert_eq!((first.matches("<script").count(), first.matches("<svg").count()), (2, 4));

    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    assert_eq!(mirror.get("/v2/team/none/manifests/1").await.status, 404);
    assert_eq!(mirror.get("/v2/team/app/manifests/1?ns=nvcr.io").await.status, 404);
    registry.fault(When::any(), Fault::status(500));
    assert_eq!(mirror.get("/v2/team/other/manifests/1").await.status, 502);
    let now = until("the failure is told", async || {
        let now = page(&mirror, "/page/now").await;
        now.contains("status <span>").then_some(now)
    })
    .await;
    for expected in [
        "fake.example answered no request since 20",
        "status <span>the registry said that it cannot answer</span></th><td>fake.example</td>",
        "manifest_unknown</th>",
        "<strong>nvcr.io</strong>, 1 times",
        "fake.example/team/app:1</th><td>miss",
        "<td class=\"number\">1</td><td class=\"number\">0.0 %</td>",
    ] {
        assert!(now.contains(expected), "{expected}: {now}");
    }
    assert!(!now.contains("<html") && !now.contains("id=\"images\""), "it is a part of the page");
    let images = until("the image is told", async || {
        let images = page(&mirror, "/page/images").await;
        images.contains("team/app:1</th>").then_some(images)
    });
    assert!(!images.await.contains("<button"), "nothing is changed without a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_searched_without_a_script() {
    let registry = FakeRegistry::start().await;
    for number in 0..25 {
        registry.add_image("team/app", &format!("v{number}"), &[]);
    }
    registry.add_image("team/other", "1", &[]);
    let mirror = Mirror::of(&registry).await;
    for number in 0..25 {
        assert_eq!(mirror.get(&format!("/v2/team/app/manifests/v{number}")).await.status, 200);
    }
    assert_eq!(mirror.get("/v2/team/other/manifests/1").await.status, 200);
    let found =
        async |path: &str| page(&mirror, path).await.matches("<tr><th scope=\"row\">fake.example/team/").count();
    let image = "<tr><th scope=\"row\">fake.example/team/";
    until("all images are read", async || !page(&mirror, "/page/images").await.contains("still reads")).await;
    assert_eq!(found("/page/images?match=other&sort=size").await, 1);
    assert_eq!(found("/page/images?match=*:v1*").await, 11);
    let first = page(&mirror, "/?match=team%2Fapp&sort=pulls").await;
    let list = first.split_once("id=\"image-list\"").unwrap().1;
    assert_eq!(list.matches(image).count(), 20);
    assert!(first.contains("name=\"match\" type=\"search\" maxlength=\"500\" value=\"team/app\""), "{first}");
    let (next, _) = list.split_once("<a href=\"").unwrap().1.split_once("#images\">More images").unwrap();
    let second = page(&mirror, &next.replace("&amp;", "&")).await;
    assert_eq!(second.split_once("id=\"image-list\"").unwrap().1.matches(image).count(), 5);

    let hostile = page(&mirror, "/?match=%22%3E%3Cscript%3E").await;
    assert!(hostile.contains("value=\"&quot;&gt;&lt;script&gt;\"") && hostile.matches("<script").count() == 2);
    for wrong in ["/?sort=%3Cb%3E", "/?match=a&match=b", "/?x=1", "/?after=7"] {
        let answer = get(&mirror, wrong, "localhost", "").await;
        assert!([200, 400].contains(&answer.status) && answer.text().contains("role=\"alert\""), "{wrong}: {answer:?}");
        assert!(!answer.text().contains("<b>"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_this_machine_sees_what_all_may_see() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/secret", "1", &[]);
    registry.require(Auth::Basic { username: "ann".into(), password: "secret".into() });
    let url = registry.url();
    let upstream =
        format!("[[upstream]]\nname = \"fake.example\"\nurls = [\"{url}\"]\naccess = \"client\"\ndefault = true\n");
    let mirror = Mirror::parse(&upstream).start().await;
    let ann = [("authorization", &*basic("ann", "secret"))];
    assert_eq!(mirror.get_with("/v2/team/secret/manifests/1", &ann).await.status, 200);
    for (host, lines, status) in [
        ("localhost", "", 200),
        ("127.0.0.1:5001", "Sec-Fetch-Site: same-origin\r\n", 200),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: image\r\n", 403),
        // A link leads a person here.
        ("localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\n", 200),
        ("evil.example", "", 421),
    ] {
        let answer = get(&mirror, "/", host, lines).await;
        assert_eq!(answer.status, status, "{host} {lines}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{answer:?}");
    }
    let fragment = get(&mirror, "/page/now", "localhost", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\n");
    assert_eq!(fragment.await.status, 403);
    let post = client().post(format!("http://{}/", mirror.app().admin_addr())).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_token_a_stranger_sees_the_form_alone() {
    let registry = FakeRegistry::start().await;
    let mirror = with_token(&registry).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let wrong = "Authorization: Bearer 0123456789abcdef\r\n";
    for (path, lines, status, is_shown) in [
        ("/", "", 200, false),
        ("/", wrong, 401, false),
        ("/", &*right, 200, true),
        ("/page/now", "", 401, false),
        ("/page/now", &right, 200, true),
        ("/page/images", wrong, 401, false),
    ] {
        let answer = get(&mirror, path, "localhost", lines).await;
        assert_eq!(answer.status, status, "{path} {lines}: {answer:?}");
        assert_eq!(answer.text().contains("fake.example"), is_shown, "{path} {lines}");
        assert!(!answer.text().contains(TOKEN));
        let is_form = path == "/" && !is_shown;
        assert_eq!(answer.text().contains("id=\"token-form\""), is_form, "{path} {lines}");
        assert_eq!(answer.text().contains("id=\"forget\""), is_shown && path == "/", "{path} {lines}");
    }
    registry.add_image("team/app", "1", &[]);
    assert_eq!(mirror.get("/v2/team/app/manifests/1").await.status, 200);
    until("the image has a button", async || {
        let images = get(&mirror, "/page/images", "localhost", &right).await;
        let actions = images.text().split_once("<td data-image=\"fake.example/team/app:1\">");
        let has = |action| actions.is_some_and(|(_, rest)| rest.contains(&format!("data-action=\"{action}\"")));
        ["pin", "refresh", "remove"].into_iter().all(has)
    })
    .await;
    let form = get(&mirror, "/", "localhost", "").await;
    assert!(!form.text().contains(env!("CARGO_PKG_VERSION")) && form.text().contains("<noscript>"), "{form:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_the_page_are_small_and_safe() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let mut size = 0;
    for path in [&["/", "/page/now", "/page/images"][..], &ASSETS].concat() {
        let answer = get(&mirror, path, "localhost", "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        let is_asset = ASSETS.contains(&path);
        assert_eq!(answer.header("cache-control"), Some(if is_asset { "no-cache" } else { "no-store" }), "{path}");
        size += if path.starts_with("/page/now") || path.starts_with("/page/images") { 0 } else { answer.body.len() };
        if let Some(etag) = answer.header("etag") {
            let again = get(&mirror, path, "localhost", &format!("If-None-Match: {etag}\r\n")).await;
            assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag)), "{path}");
        }
    }
    assert!(size < 30_000, "{size} bytes");
    let head = client().head(format!("http://{}/", mirror.app().admin_addr())).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 200);
}

/// The most that ten transfers with such names have, and the charts of a whole day, which this test cannot wait for.
const TRANSFERS: usize = 6_000;
const CHARTS: usize = 6_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_page_and_its_files_have_less_than_60_kb() {
    let registry = FakeRegistry::start().await;
    let repository = "department/of-the-project/an-application-with-a-long-name/and-its-variant";
    let tags = ["release-2026.11.30-build.4711", "release-2026.11.29-build.4710", "release-2026.11.28-build.4709"];
    for tag in tags {
        registry.add_image(repository, tag, &[b"a layer"]);
    }
    let names: Vec<_> = (0..12).map(|number| format!("registry-{number}.example.com")).collect();
    let url = registry.url();
    let upstreams = names.iter().map(|name| format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{url}\"]\n"));
    let mut mirror = Mirror::parse(&upstreams.collect::<String>()).start().await;
    mirror.restart_with_token(TOKEN).await;
    for name in &names {
        for (tag, status) in tags.into_iter().map(|tag| (tag, 200)).chain([("none", 404)]) {
            let path = format!("/v2/{repository}/manifests/{tag}?ns={name}");
            assert_eq!(mirror.get(&path).await.status, status);
        }
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let page = until("the page tells all of it", async || {
        let page = get(&mirror, "/", "localhost", &right).await;
        let count = |text| page.text().matches(text).count();
        let is_full = (count("data-action=\"remove\""), count("manifest_unknown</th>"), count("<td>ok</td>"));
        (is_full == (20, 12, 12) && !page.text().contains("still reads")).then_some(page)
    })
    .await;
    let mut size = page.body.len();
    for path in ASSETS {
        size += get(&mirror, path, "localhost", "").await.body.len();
    }
    assert!(size + TRANSFERS + CHARTS < 60_000, "{size} bytes, {} of them the page", page.body.len());
}
