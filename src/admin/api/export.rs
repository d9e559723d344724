//! `GET /api/v1/export`: images as one archive.
//!
//! What must hold: the archive has its length in the head, and breaks off on a failure: no client takes a part for the whole.

use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::{
    image_name::named_image,
    parameters::{ParameterError, Parameters},
    response::{ApiBody, ApiError, text},
};
use crate::{
    cache::{
        Exports,
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

/// Which images, of which platforms.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    names: Vec<String>,
    platforms: Vec<Platform>,
}

/// Reads a query: `name` once for each image, `platform` with one or several.
///
/// # Errors
/// A parameter is unknown, or its value cannot be used.
pub(super) fn query(query: Option<&str>) -> Result<Query, ParameterError> {
    let parameters = Parameters::parse_repeated(query, &["name", "platform"])?;
    let names: Vec<String> = parameters.all("name").map(str::to_owned).collect();
    if names.is_empty() || names.len() > MAX_IMAGES {
        let problem = format!("write the name of each image, up to {MAX_IMAGES}");
        return Err(ParameterError::Value { name: "name", value: String::new(), problem });
    }
    let platforms = parameters.all("platform").flat_map(|platforms| platforms.split(','));
    let wrong = |value: &str, problem: String| ParameterError::Value {
        name: "platform",
        value: value.chars().take(100).collect(),
        problem,
    };
    let platforms: Vec<Platform> = platforms
        .map(|text| text.parse().map_err(|_| wrong(text, "write platforms such as linux/amd64".to_owned())))
        .collect::<Result<_, _>>()?;
    if platforms.len() > MAX_PLATFORMS {
        return Err(wrong("", format!("write up to {MAX_PLATFORMS} platforms")));
    }
    Ok(Query { names, platforms })
}

/// The archive of these images.
pub(super) async fn export(
    exports: &Exports,
    query: Query,
    upstreams: &[Upstream],
) -> Result<Response<ApiBody>, ApiError> {
    let images = query.names.iter().map(|name| {
        let (name, upstream) = named_image(name, upstreams)?;
        Ok(ExportImage {
            name: name.to_string(),
            upstream: upstream.clone(),
            repository: name.repository,
            reference: name.reference,
        })
    });
    let images = images.collect::<Result<Vec<_>, ApiError>>()?;
    let export = exports.prepare(&images, &query.platforms).await.map_err(ApiError::from)?;
    let len = export.len;
    let frames = export.into_stream().map_ok(Frame::data).map_err(BoxError::from);
    let mut response = text(StatusCode::OK, Bytes::new()).map(|_| StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, TAR_TYPE);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    Ok(response)
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
}
