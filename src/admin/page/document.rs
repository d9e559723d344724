//! The page as HTML.

use bytes::Bytes;

use super::{images::Search, reader::Reader};
use crate::html::Html;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
    <meta name=\"robots\" content=\"noindex\">\n<title>forebay for operators</title>\n\
    <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/page/style.css\">\n\
    <script src=\"/page/live.js\" defer></script>\n<script src=\"/page/script.js\" defer></script>\n</head>\n";
const FOOT: &str = "</main>\n<p id=\"status\" role=\"status\" class=\"hidden\"></p>\n</body>\n</html>\n";

/// The whole page. `now` and `list` are HTML already.
pub(super) fn write(now: Html, search: &Search, list: Html, reader: Reader) -> Bytes {
    let mut html = Html::default();
    html.markup(HEAD).markup(
        "<body class=\"wide\">\n<a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
         <header>\n<h1>forebay</h1>\n</header>\n<nav aria-label=\"On this page\">\n<ul>\n\
         <li><a href=\"#health\">Health</a></li>\n<li><a href=\"#savings\">Savings</a></li>\n\
         <li><a href=\"#failures\">Failures</a></li>\n<li><a href=\"#registries\">Registries</a></li>\n\
         <li><a href=\"#transfers\">Now</a></li>\n<li><a href=\"#pulls\">Pulls</a></li>\n\
         <li><a href=\"#images\">Images</a></li>\n</ul>\n</nav>\n\
         <main id=\"main\" tabindex=\"-1\">\n<div data-live=\"/page/now\">\n",
    );
    html.append(now).markup(
        "</div>\n<section id=\"images\" aria-labelledby=\"images-title\">\n\
         <h2 id=\"images-title\">What is in the cache?</h2>\n",
    );
    search.form(&mut html);
    html.markup("<p id=\"image-note\" role=\"status\"></p>\n<div id=\"image-list\">\n")
        .append(list)
        .markup("</div>\n</section>\n");
    if reader.may_change {
        html.markup("<p><button type=\"button\" id=\"forget\">Forget the token</button></p>\n");
    }
    html.markup(FOOT);
    html.finish()
}

/// The page for a visitor who has to show the token. It tells nothing of this forebay.
pub(super) fn token_form() -> Bytes {
    let mut html = Html::default();
    html.markup(HEAD).markup(
        "<body class=\"wide\">\n<header>\n<h1>forebay</h1>\n</header>\n<main id=\"main\">\n\
         <h2>This page needs the token of admin.token_file</h2>\n<form id=\"token-form\" hidden>\n\
         <div><label for=\"token\">Token</label>\n<input id=\"token\" type=\"password\" autocomplete=\"off\" required \
         spellcheck=\"false\"></div>\n<button>Show the page</button>\n</form>\n\
         <p id=\"token-note\" hidden>The token stays in the memory of this tab until you close it. It is sent in clear: \
         use this page on the same machine, by an SSH tunnel, or by a proxy with TLS.</p>\n\
         <noscript><p>A browser sends the token by the script of this page only, and your browser runs no scripts. Ask \
         on the machine of forebay: <code>forebay status</code>, <code>forebay log</code>, <code>forebay cache \
         ls</code>. Without <code>admin.token_file</code> this page needs neither token nor script on that machine, and \
         an SSH tunnel reaches it from others.</p></noscript>\n",
    );
    html.markup(FOOT);
    html.finish()
}

/// The page for a visitor who may not see anything here.
pub(super) fn refused(why: &str) -> Bytes {
    let mut html = Html::default();
    html.markup(HEAD).markup("<body>\n<header>\n<h1>forebay</h1>\n</header>\n<main id=\"main\">\n<p>");
    html.text("This page is not shown to you: ").text(why).markup(".</p>\n<p>An SSH tunnel to the machine of forebay ");
    html.markup("reaches it from elsewhere: <code>ssh -L 5001:127.0.0.1:5001 HOST</code>, then ");
    html.markup("<code>http://127.0.0.1:5001/</code>.</p>\n").markup(FOOT);
    html.finish()
}
