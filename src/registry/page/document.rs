//! The page as HTML.

use bytes::Bytes;

use super::{authority::Authority, pulls::Pulls};
use crate::{
    html::Html,
    setup::{Client, Guide, Login, Registry, Setup, Step},
};

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
    <meta name=\"robots\" content=\"noindex\">\n<title>forebay: mirror for container images</title>\n\
    <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/page/style.css\">\n\
    <script src=\"/page/live.js\" defer></script>\n<script src=\"/page/script.js\" defer></script>\n</head>\n<body>\n\
    <a class=\"skip\" href=\"#main\">Skip to the content</a>\n";

/// The page for a client.
pub(super) fn write(setup: &Setup<'_>, authority: Option<&Authority>, pulls: Option<&Pulls>) -> Bytes {
    let mut html = Html::default();
    html.markup(HEAD);
    introduction(&mut html, setup);
    navigation(&mut html, setup, authority, pulls.is_some());
    html.markup("<main id=\"main\" tabindex=\"-1\">\n");
    for client in Client::ALL {
        guide(&mut html, &Guide::new(client, setup));
    }
    if let Some(pulls) = pulls {
        pulls.section(&mut html);
    }
    if !setup.registries.is_empty() {
        registries(&mut html, setup);
    }
    if let Some(authority) = authority {
        certificate(&mut html, authority);
    }
    html.markup("</main>\n<p id=\"status\" role=\"status\" class=\"hidden\"></p>\n</body>\n</html>\n");
    html.finish()
}

fn introduction(html: &mut Html, setup: &Setup<'_>) {
    html.markup("<header>\n<h1>Container images through forebay</h1>\n<p>").markup(
        "This is a pull-through caching mirror for container registries. A client that is set up as below pulls \
         images through it: the first pull of an image comes from its registry, later ones from here.</p>\n<p>",
    );
    html.markup("The address of this mirror is <strong>").text(&setup.origin.to_string()).markup("</strong>. ");
    if setup.origin.is_loopback {
        html.markup("Only programs of the same machine reach it there. ");
    }
    html.markup(match setup.login {
        Login::NotNeeded => "Pulls need no login.",
        Login::Needed => "Pulls need a login.",
        Login::NeedsTls => "Pulls need a login, and passwords are accepted over TLS only.",
        Login::Certificate => "Pulls need a client certificate.",
    });
    html.markup("</p>\n</header>\n");
}

fn navigation(html: &mut Html, setup: &Setup<'_>, authority: Option<&Authority>, has_pulls: bool) {
    html.markup("<nav aria-label=\"On this page\">\n<ul>\n");
    let mut link = |id: &str, title: &str| {
        html.markup("<li><a href=\"#").text(id).markup("\">").text(title).markup("</a></li>\n");
    };
    for client in Client::ALL {
        link(client.as_str(), client.title());
    }
    if has_pulls {
        link("pulls", "My pulls");
    }
    if !setup.registries.is_empty() {
        link("registries", "Registries");
    }
    if authority.is_some() {
        link("ca", "CA certificate");
    }
    html.markup("</ul>\n</nav>\n");
}

fn guide(html: &mut Html, guide: &Guide) {
    let id = guide.client.as_str();
    html.markup("<section id=\"").text(id).markup("\" aria-labelledby=\"").text(id).markup("-title\">\n");
    html.markup("<h2 id=\"").text(id).markup("-title\">").text(guide.client.title()).markup("</h2>\n");
    for step in &guide.steps {
        match step {
            Step::Note(note) => {
                html.markup("<p>").text(note).markup("</p>\n");
            }
            Step::File { path, content } => snippet(html, path, content),
            Step::Command(command) => snippet(html, "Command", command),
        }
    }
    html.markup("<p><a href=\"/setup/").text(id).markup("\">").text(guide.client.title()).markup(" as plain text</a>");
    html.markup("</p>\n</section>\n");
}

/// A text to copy. It takes the focus, so that keys can scroll it.
fn snippet(html: &mut Html, caption: &str, content: &str) {
    html.markup("<figure>\n<figcaption>").text(caption).markup("</figcaption>\n<pre tabindex=\"0\"><code>");
    html.text(content.trim_end()).markup("</code></pre>\n</figure>\n");
}

fn registries(html: &mut Html, setup: &Setup<'_>) {
    html.markup(
        "<section id=\"registries\" aria-labelledby=\"registries-title\">\n\
         <h2 id=\"registries-title\">Registries</h2>\n<p>Images of these registries come through forebay.</p>\n\
         <table>\n<thead><tr><th scope=\"col\">Registry</th><th scope=\"col\">Other names</th>\
         <th scope=\"col\">Login</th></tr></thead>\n<tbody>\n",
    );
    for registry in &setup.registries {
        row(html, registry, setup.unnamed.is_some_and(|unnamed| unnamed.name == registry.name));
    }
    html.markup("</tbody>\n</table>\n</section>\n");
}

fn row(html: &mut Html, registry: &Registry, is_unnamed: bool) {
    html.markup("<tr><th scope=\"row\">").text(&registry.name);
    if is_unnamed {
        html.markup(" <span>also without a name</span>");
    }
    html.markup("</th><td>").text(&registry.aliases.join(", ")).markup("</td><td>");
    html.markup(if registry.wants_login { "with an account of the registry" } else { "as above" });
    html.markup("</td></tr>\n");
}

fn certificate(html: &mut Html, authority: &Authority) {
    html.markup(
        "<section id=\"ca\" aria-labelledby=\"ca-title\">\n<h2 id=\"ca-title\">CA certificate</h2>\n\
         <p>The certificate of this mirror is signed by a private CA: clients over TLS need \
         <a href=\"/setup/ca.crt\" download>ca.crt</a>. Before you install it, compare its SHA-256 fingerprint with \
         the one that the operator tells you.</p>\n",
    );
    snippet(html, "SHA-256 fingerprint", &authority.fingerprint());
    html.markup("</section>\n");
}
