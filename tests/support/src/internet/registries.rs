//! The registries to which users push, each as a [`Dialect`](super::dialect::Dialect): the habits that were seen at it. Others
//! are described beside their tests.

pub mod docker_hub;
pub mod ecr;
pub mod harbor;
pub mod qingcloud;
pub mod tencent;
