//! `GET /api/v1/export` and `POST /api/v1/export`: images as one archive.
//!
//! What must hold: the archive has its length in the head, and breaks off on a failure: no client takes a part for the whole.
//! Nothing of an upstream that authorizes each client is in it.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde::Deserialize;

use super::{
    image_name::named_image,
    parameters::{ParameterError, Parameters},
    response::{ApiBody, ApiError, text},
};
use crate::{
    cache::{
        Exports, Visibility,
        export::{ExportImage, ExportProblem, NoExport},
    },
    oci::Platform,
    transport::BoxError,
    upstream::Upstream,
};

/// Source: IANA has no type for it; this is what servers and browsers use.
pub(super) const TAR_TYPE: HeaderValue = HeaderValue::from_static("application/x-tar");
/// How many images are exported at a time.
const MAX_IMAGES: usize = 500;
/// How many platforms are named.
const MAX_PLATFORMS: usize = 32;
/// The longest body of a request, in bytes: [`MAX_IMAGES`] names of 600 bytes, and then some.
pub(super) const MAX_BODY: usize = 512 * 1024;

/// The body of a request: a query has room for a few hundred names alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    images: Vec<String>,
    #[serde(default)]
    platforms: Vec<String>,
}

/// Which images, of which platforms.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    names: Vec<String>,
    platforms: Vec<Platform>,
}

/// Reads a query: `name` once for each image, `platform` with one or several.
///
/// # Errors
/// A parameter is unknown, or its value cannot be used.
pub(super) fn query(query: Option<&str>) -> Result<Wanted, ParameterError> {
    let parameters = Parameters::parse_repeated(query, &["name", "platform"])?;
    let platforms = parameters.all("platform").flat_map(|platforms| platforms.split(','));
    let wrong = |name, value: &str, problem: String| ParameterError::Value { name, value: start(value), problem };
    let platforms = read_platforms(platforms).map_err(|(value, problem)| wrong("platform", value, problem))?;
    let names: Vec<String> = parameters.all("name").map(str::to_owned).collect();
    check_count(&names).map_err(|problem| wrong("name", "", problem))?;
    Ok(Wanted { names, platforms })
}

/// Reads a body.
///
/// # Errors
/// It names no images, too many, or what is no platform.
pub(super) fn wanted(Body { images, platforms }: Body) -> Result<Wanted, ApiError> {
    let refused = |why: String| ApiError::new(StatusCode::BAD_REQUEST, why);
    check_count(&images).map_err(|problem| refused(format!("images: {problem}")))?;
    let platforms = read_platforms(platforms.iter().map(String::as_str));
    let platforms =
        platforms.map_err(|(value, problem)| refused(format!("platforms: {:?}: {problem}", start(value))))?;
    Ok(Wanted { names: images, platforms })
}

fn check_count(names: &[String]) -> Result<(), String> {
    let is_good = (1..=MAX_IMAGES).contains(&names.len());
    if is_good { Ok(()) } else { Err(format!("write the name of each image, up to {MAX_IMAGES}")) }
}

/// The platforms of texts; else the text that is none, and what is possible.
fn read_platforms<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Platform>, (&'a str, String)> {
    let mut platforms = Vec::new();
    for text in texts {
        if platforms.len() == MAX_PLATFORMS {
            return Err(("", format!("write up to {MAX_PLATFORMS} platforms")));
        }
        platforms.push(text.parse().map_err(|_| (text, "write platforms such as linux/amd64".to_owned()))?);
    }
    Ok(platforms)
}

/// A value as it is told.
fn start(value: &str) -> String {
    value.chars().take(100).collect()
}

/// The archive of these images.
pub(super) async fn export(
    exports: &Exports,
    wanted: Wanted,
    upstreams: &[Upstream],
) -> Result<Response<ApiBody>, ApiError> {
    let (mut images, mut names) = (Vec::new(), HashSet::new());
    for name in &wanted.names {
        let (name, upstream) = named_image(name, upstreams)?;
        check_access(upstream)?;
        let (text, upstream) = (name.to_string(), upstream.clone());
        // A reader of the archive finds no image that has two entries.
        if names.insert(text.clone()) {
            let (repository, reference) = (name.repository, name.reference);
            images.push(ExportImage { name: text, upstream, repository, reference });
        }
    }
    let export = exports.prepare(&images, &wanted.platforms).await.map_err(ApiError::from)?;
    let len = export.len;
    let frames = export.into_stream().map_ok(Frame::data).map_err(BoxError::from);
    let mut response = text(StatusCode::OK, Bytes::new()).map(|_| StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, TAR_TYPE);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    Ok(response)
}

/// An archive is for readers whom no registry grants anything.
fn check_access(upstream: &Upstream) -> Result<(), ApiError> {
    match Visibility::of(upstream) {
        Visibility::Shared => Ok(()),
        Visibility::PerClient => {
            let name = upstream.name();
            let why = format!("{name} has access = \"client\": it grants images to each client, so none is exported");
            Err(ApiError::new(StatusCode::BAD_REQUEST, why))
        }
    }
}

impl From<NoExport> for ApiError {
    fn from(error: NoExport) -> Self {
        match error {
            NoExport::TooMany(most) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, format!("{most} exports are running; try again later"))
            }
            NoExport::Problems(problems) => {
                let lines = problems.iter().map(|ExportProblem { name, why }| format!("{name}: {why}"));
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_images_and_platforms() {
        let read = query(Some("name=node&platform=linux%2Famd64,linux/arm64&name=ghcr.io/o/a:1&platform=linux/s390x"));
        let read = read.unwrap();
        assert_eq!(read.names, ["node", "ghcr.io/o/a:1"]);
        assert_eq!(
            read.platforms.iter().map(Platform::as_str).collect::<Vec<_>>(),
            ["linux/amd64", "linux/arm64", "linux/s390x"]
        );
        for (text, problem) in [
            ("", "write the name of each image"),
            ("platform=linux/amd64", "write the name of each image"),
            ("name=node&platform=amd64", "write platforms such as linux/amd64"),
            ("name=node&platform=", "write platforms such as linux/amd64"),
            ("image=node", "there is no parameter \"image\""),
        ] {
            let error = query(Some(text)).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        assert!(query(Some(&"name=a&".repeat(MAX_IMAGES + 1))).is_err());
    }

    #[test]
    fn a_body_names_what_a_query_has_no_room_for() {
        let read = |images: usize, platforms: &[&str]| {
            let platforms = platforms.iter().map(|text| (*text).to_owned()).collect();
            let images = (0..images).map(|number| format!("registry.example/{}:{number}", "a".repeat(200))).collect();
            wanted(Body { images, platforms }).map_err(|error| error.why)
        };
        let all = read(MAX_IMAGES, &["linux/amd64"]).unwrap();
        assert_eq!((all.names.len(), all.platforms.len()), (MAX_IMAGES, 1));
        for (images, platforms, problem) in [
            (0, &[][..], "images: write the name of each image, up to 500"),
            (MAX_IMAGES + 1, &[], "images: write the name of each image, up to 500"),
            (1, &["linux"], "platforms: \"linux\": write platforms such as linux/amd64"),
            (1, &["linux/amd64"; MAX_PLATFORMS + 1], "platforms: \"\": write up to 32 platforms"),
        ] {
            assert_eq!(read(images, platforms), Err(problem.to_owned()));
        }
    }
}
