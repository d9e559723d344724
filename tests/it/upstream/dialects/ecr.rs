//! Amazon ECR: no tokens, the password of the user AWS goes with each request and dies after twelve hours; blobs are in S3,
//! by URLs that are signed for GET alone and take no Authorization beside the signature.

use super::*;
pub(super) use forebay_test_support::internet::registries::ecr::ECR;

#[tokio::test]
async fn nothing_is_public() {
    pulls_what_is_public(&ECR).await;
}

#[tokio::test]
async fn private() {
    pulls_what_is_private(&ECR).await;
}

#[tokio::test]
async fn a_password_of_yesterday() {
    refuses_a_wrong_password(&ECR).await;
}

#[tokio::test]
async fn a_password_that_has_died() {
    outlives_its_password(&ECR).await;
}
