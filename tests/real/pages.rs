//! Both pages in a real browser, while a client pulls: what they show, that they are live, their buttons, and whether a
//! person who sees little or uses only keys can use them.

use std::{fs, path::Path};

use forebay_test_support::real::{
    browser::Browser,
    forebay::Forebay,
    gate::Gate,
    image::{Format, Image},
    podman::Podman,
    registry::Registry,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const NEW_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// A registry with two images, and forebay in front of it.
async fn mirror(more: &str, files: &[(&str, &str)]) -> (Registry, Forebay) {
    let registry = registry().await;
    let forebay = Forebay::start(&format!("{more}{}", upstream(&registry.url())), files).await;
    (registry, forebay)
}

async fn registry() -> Registry {
    let registry = Registry::open().await;
    for (name, seed) in [("library/layers", 1), ("library/other", 2)] {
        registry.pusher().image(name, "1", &Image::new(Format::Oci, seed, &[300_000, 40_000])).await;
    }
    registry
}

fn upstream(url: &str) -> String {
    format!("[[upstream]]\nname = \"docker.io\"\nurls = [\"{url}\"]\ndefault = true\nconnections = 1\n")
}

/// A pull of a client that is not the browser; whether it succeeded.
async fn pull(forebay: &Forebay, user: &Podman, name: &str) -> bool {
    let source = format!("docker://127.0.0.1:{}/library/{name}", forebay.port);
    let target = format!("dir:{}", user.place(&name.replace(':', "-")).display());
    user.skopeo(&["copy", "--src-tls-verify=false", &source, &target]).await.status.success()
}

/// Fails if the page has barriers, is wider than a phone, or made the browser complain.
async fn check(browser: &mut Browser) {
    for is_phone in [true, false] {
        browser.show_as_phone(is_phone).await;
        browser.until("document.documentElement.scrollWidth <= window.innerWidth").await;
        assert_eq!(browser.barriers().await, [""; 0], "as a phone: {is_phone}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Keeps a picture for the documents, if the pictures are to be made anew.
async fn picture(browser: &mut Browser, name: &str) {
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(name);
        browser.value("window.scrollTo(0, 0)").await;
        fs::write(path, browser.picture().await).expect("a picture can be written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_see_their_pulls_come_through() {
    let ((_registry, forebay), user) = (mirror("", &[]).await, Podman::new(""));
    let mut browser = Browser::start().await;
    browser.open(&forebay.url("/")).await;
    browser.until("document.querySelector('#docker code').textContent.includes(location.host)").await;
    browser.until("document.querySelector('#pulls-list').textContent.includes('There are none yet.')").await;

    // The page is not loaded again.
    browser.value("window.isTheSame = true").await;
    assert!(pull(&forebay, &user, "layers:1").await);
    let row = "document.querySelector('#pulls-list tbody tr')?.textContent ?? ''";
    browser.until(&format!("({row}).includes('docker.io/library/layers:1')")).await;
    browser.until("document.querySelector('#status').textContent.startsWith('docker.io/library/layers:1')").await;
    browser.until("window.isTheSame").await;

    browser.value("document.querySelector('#docker button').click()").await;
    browser.until("['Copied', 'Selected'].includes(document.querySelector('#docker button').textContent)").await;
    check(&mut browser).await;
    picture(&mut browser, "page.png").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_happens() {
    let ((mut registry, forebay), user) = (mirror("", &[]).await, Podman::new(""));
    let mut browser = Browser::start().await;
    browser.open(&forebay.admin_url("/")).await;
    browser.until("document.querySelector('#health').textContent.includes('Yes: no person has to look.')").await;
    for name in ["layers:1", "layers:1", "other:1"] {
        assert!(pull(&forebay, &user, name).await);
    }
    let text = |id: &str| format!("document.getElementById('{id}').textContent");
    browser.until(&format!("{}.includes('docker.io/library/other:1')", text("pulls"))).await;
    browser.until("document.querySelector('#savings-table td').textContent === '3'").await;
    check(&mut browser).await;

    browser.value("document.getElementById('match').value = 'layers'").await;
    browser.value("document.querySelector('form').requestSubmit()").await;
    browser.until("location.search.includes('match=layers') && document.readyState === 'complete'").await;
    let found = "[...document.querySelectorAll('#image-list tbody th')].map((cell) => cell.textContent)";
    assert_eq!(browser.value(found).await, serde_json::json!(["docker.io/library/layers:1"]));
    picture(&mut browser, "operators.png").await;

    registry.kill();
    assert!(!pull(&forebay, &user, "third:1").await);
    browser.until(&format!("{}.includes('refused')", text("failures"))).await;
    browser.until(&format!("{}.includes('docker.io answered no request')", text("health"))).await;
    check(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_transferred_now() {
    let (registry, user) = (registry().await, Podman::new(""));
    let gate = Gate::before(registry.port).await;
    let forebay = Forebay::start(&upstream(&gate.url()), &[]).await;
    let mut browser = Browser::start().await;
    browser.open(&forebay.admin_url("/")).await;
    let transfers = "document.getElementById('transfers').textContent";
    browser.until(&format!("{transfers}.includes('Nothing.')")).await;

    // The larger layer stops in the middle.
    gate.hold_each_after(100_000);
    let watch = async {
        let row = "document.querySelector('#transfers-table tbody tr')?.textContent ?? ''";
        browser.until(&format!("({row}).startsWith('docker.io/library/layers:1')")).await;
        browser.until(&format!("({row}).includes('127.0.0.1') && ({row}).includes(' of 293.')")).await;
        browser.until("document.querySelector('#transfers progress').position < 1").await;
        check(&mut browser).await;
        gate.open();
    };
    let (is_pulled, ()) = tokio::join!(pull(&forebay, &user, "layers:1"), watch);
    assert!(is_pulled);
    browser.until(&format!("{transfers}.includes('Nothing.')")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_page_of_operators() {
    let admin = "token_file = \"admin.token\"\n";
    let ((_registry, forebay), user) = (mirror(admin, &[("admin.token", TOKEN)]).await, Podman::new(""));
    let mut browser = Browser::start().await;
    browser.open(&forebay.admin_url("/")).await;
    browser.until("!document.getElementById('token-form').hidden").await;
    check(&mut browser).await;

    let enter = async |browser: &mut Browser, token: &str| {
        browser.value("document.getElementById('token').focus()").await;
        browser.value("document.getElementById('token').value = ''").await;
        browser.insert(token).await;
        browser.value("document.getElementById('token-form').requestSubmit()").await;
    };
    enter(&mut browser, "0123456789abcdef").await;
    browser.until("document.getElementById('token-note').textContent.includes('not the token')").await;
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|complaint| complaint.contains("401")), "{complaints:?}");

    enter(&mut browser, TOKEN).await;
    browser.until("document.getElementById('health') !== null").await;
    assert!(pull(&forebay, &user, "layers:1").await);
    browser.until("document.getElementById('pulls').textContent.includes('docker.io/library/layers:1')").await;
    check(&mut browser).await;
    assert_eq!(browser.value("document.cookie + location.href").await, forebay.admin_url("/"));

    // The tab remembers the token until it is told to forget it.
    browser.open(&forebay.admin_url("/?match=layers")).await;
    browser.until("document.querySelector('#image-list tbody th')?.textContent === 'docker.io/library/layers:1'").await;
    for (word, pinned) in [("pin", true), ("unpin", false)] {
        let button = format!("document.querySelector('[data-action={word}]')");
        browser.value(&format!("{button}.focus(); {button}.click()")).await;
        let row = "document.querySelector('#image-list tbody tr').textContent";
        browser.until(&format!("{row}.includes(', pinned') === {pinned} && {button} === null")).await;
        browser.until("document.activeElement.id === 'pin-0'").await;
    }
    check(&mut browser).await;
    let note = "document.getElementById('image-note').textContent";
    browser.value("document.querySelector('[data-action=refresh]').click()").await;
    browser.until(&format!("{note} === 'docker.io/library/layers:1: unchanged.'")).await;
    browser.value("window.confirm = () => true; document.querySelector('[data-action=remove]').click()").await;
    browser.until(&format!("{note} === 'docker.io/library/layers:1: removed.'")).await;
    browser.until("document.getElementById('image-list').textContent.includes('No image was found.')").await;
    browser.value("document.getElementById('forget').click()").await;
    browser.until("document.getElementById('token-form')?.hidden === false").await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    check(&mut browser).await;

    // A page that is open asks for the token that has taken the place of its own.
    enter(&mut browser, TOKEN).await;
    browser.until("document.getElementById('health') !== null").await;
    fs::write(forebay.cache().with_file_name("admin.token"), NEW_TOKEN).expect("the file can be written");
    browser.until("document.getElementById('token-note')?.textContent.includes('not the token')").await;
    enter(&mut browser, NEW_TOKEN).await;
    browser.until("document.getElementById('health') !== null").await;
}
