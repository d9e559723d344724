//! `GET /api/v1/images` and `GET /api/v1/images/{NAME}`: the images in the cache.
//!
//! What must hold: a caller learns of images of upstreams that authorize each client only if it may.

use std::borrow::Cow;

use http::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    access::Sight,
    parameters::{ParameterError, Parameters},
    response::{ApiBody, ApiError},
    turns::Turn,
    upstreams::time,
};
use crate::{
    cache::{
        Inventory, Pins, Visibility,
        inventory::{Details, Image, ImageName, ManifestDetails, Page, PageQuery, Part, PlatformState, Sort},
    },
    oci::{Digest, Platform},
    rule::{self, Pattern},
};

/// How many images a page has, unless the caller says so, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// What a caller asks for; `is_upstream`: whether a name is that of an upstream.
///
/// # Errors
/// A parameter is unknown, or its value cannot be used.
pub(super) fn query(
    query: Option<&str>,
    sight: Sight,
    is_upstream: impl Fn(&str) -> bool,
) -> Result<PageQuery, ParameterError> {
    let parameters = Parameters::parse(query, &["match", "sort", "limit", "after"])?;
    Ok(PageQuery {
        pattern: parameters.value("match", |text| Pattern::typed(text, is_upstream))?,
        sort: parameters.value("sort", str::parse::<Sort>)?.unwrap_or_default(),
        limit: parameters.count("limit", MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT),
        after: parameters.value("after", str::parse)?,
        sees_clients: sight.of_clients,
    })
}

/// A page of images.
pub(super) async fn page(inventory: &Inventory, query: PageQuery, turn: Turn) -> Result<Response<ApiBody>, ApiError> {
    let page = inventory.page(query).await.ok_or_else(over)?;
    turn.document(move || {
        let Page { images, next, is_reading, left_out } = page;
        serde_json::to_string(&json!({
            "images": images.iter().map(image).collect::<Vec<_>>(),
            "next": next.map(|next| next.to_string()),
            "reading": is_reading,
            "left_out": left_out,
        }))
    })
    .await
}

/// In which part of the cache an image is looked for; `None`: in each that the caller may see.
///
/// # Errors
/// A parameter is unknown, or its value cannot be used.
pub(super) fn part(query: Option<&str>) -> Result<Option<Visibility>, ParameterError> {
    let parameters = Parameters::parse(query, &["access"])?;
    parameters.value("access", |text| match text {
        "shared" => Ok(Visibility::Shared),
        "client" => Ok(Visibility::PerClient),
        _ => Err("write shared or client"),
    })
}

/// One image, by the name in the path.
pub(super) async fn details(
    (inventory, pins): (&Inventory, &Pins),
    (name, part): (&str, Option<Visibility>),
    sight: Sight,
    is_upstream: impl Fn(&str) -> bool,
    turn: Turn,
) -> Result<Response<ApiBody>, ApiError> {
    let text: Cow<'_, str> = percent_decode_str(name).decode_utf8_lossy();
    let full = rule::full_name(&text, is_upstream);
    let start: String = full.chars().take(600).collect();
    if ImageName::parse(Visibility::Shared, &full).is_err() {
        let why = format!("{start:?} is no name of an image: write it as for docker pull, such as node:22");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, why));
    }
    for visibility in Visibility::ALL {
        let may_see = sight.of_clients || visibility == Visibility::Shared;
        let is_wanted = may_see && part.is_none_or(|part| part == visibility);
        let Some(name) = ImageName::parse(visibility, &full).ok().filter(|_| is_wanted) else { continue };
        if let Some(details) = inventory.details(name).await {
            let pins = pins.pins_of(&details.image.name);
            return turn.document(move || serde_json::to_string(&image_details(&details, &pins))).await;
        }
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no image {start} in the cache")))
}

/// The process ends.
pub(super) fn over() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "forebay is about to end")
}

fn image(image: &Image) -> Value {
    let Image {
        name,
        digest,
        size,
        blob_bytes,
        shared,
        platforms,
        more_platforms,
        pulls,
        last_use,
        confirmed,
        is_complete,
        is_pinned,
    } = image;
    json!({
        "name": name.to_string(),
        "upstream": *name.upstream,
        "repository": name.repository.as_str(),
        "reference": name.reference.to_string(),
        "access": if name.visibility == Visibility::Shared { "shared" } else { "client" },
        "digest": digest.as_ref().map(Digest::as_str),
        "size": size,
        "blob_bytes": blob_bytes,
        "shared": shared,
        "platforms": platforms.iter().map(platform).collect::<Vec<_>>(),
        "more_platforms": more_platforms,
        "pulls": pulls,
        "last_use": last_use.map(time),
        "confirmed": confirmed.map(time),
        "pinned": is_pinned,
        "complete": is_complete,
    })
}

fn platform(state: &PlatformState) -> Value {
    let PlatformState { platform, is_here, is_complete } = state;
    json!({ "platform": platform.as_ref().map(Platform::as_str), "here": is_here, "complete": is_complete })
}

fn image_details(details: &Details, pins: &[String]) -> Value {
    let mut value = image(&details.image);
    if let Some(fields) = value.as_object_mut() {
        let media_type = details.media_type.as_ref().map(|kind| kind.as_str().to_owned());
        fields.insert("media_type".to_owned(), media_type.into());
        fields.insert("pins".to_owned(), pins.into());
        fields.insert("manifests".to_owned(), details.manifests.iter().map(manifest).collect::<Vec<_>>().into());
        fields.insert("left_out".to_owned(), details.left_out.into());
    }
    value
}

fn manifest(details: &ManifestDetails) -> Value {
    json!({
        "platform": details.platform.as_ref().map(Platform::as_str),
        "manifest": object(&details.manifest),
        "configuration": details.configuration.as_ref().map(object),
        "layers": details.layers.iter().map(object).collect::<Vec<_>>(),
    })
}

fn object(part: &Part) -> Value {
    let Part { digest, media_type, size, is_here, shared_with, shares } = part;
    json!({
        "digest": digest.as_str(),
        "media_type": media_type.as_str(),
        "size": size,
        "here": is_here,
        "shared_with": shared_with.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "shares": shares,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PageQuery, String> {
        let sight = Sight { of_clients: false };
        query(Some(text), sight, |name| name == "docker.io").map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_is_looked_for_in_the_part_that_is_asked_for() {
        for (query, expected) in [
            (None, Ok(None)),
            (Some("access=shared"), Ok(Some(Visibility::Shared))),
            (Some("access=client"), Ok(Some(Visibility::PerClient))),
            (Some("access=own"), Err(())),
            (Some("limit=1"), Err(())),
        ] {
            assert_eq!(part(query).map_err(drop), expected, "{query:?}");
        }
    }

    #[test]
    fn a_query_is_a_closed_set_of_parameters() {
        let all = parse("").unwrap();
        assert_eq!((all.pattern, all.sort, all.limit, all.after), (None, Sort::Used, DEFAULT_LIMIT, None));
        assert!(!all.sees_clients);
        let some = parse("match=node&sort=size&limit=7&after=12%2Cshared%2Cdocker.io%2Fa%2Fb%3A1").unwrap();
        assert_eq!((some.sort, some.limit), (Sort::Size, 7));
        assert_eq!(some.after.unwrap().to_string(), "12,shared,docker.io/a/b:1");
        for (text, problem) in [
            ("match=", "must not be empty"),
            ("match=docker.io", "is a registry without a repository"),
            ("sort=age", "write used, size, pulls or name"),
            ("limit=0", "write a number from 1 to 1000"),
            ("limit=1001", "write a number from 1 to 1000"),
            ("after=7", "write what the page before this one has as next"),
            ("after=7,both,docker.io/a:1", "write what the page before this one has as next"),
            ("images=1", "there is no parameter"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
