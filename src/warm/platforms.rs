//! Which manifests of an index a run fetches (pure).
//!
//! Platforms are compared as containerd normalizes them: `linux/arm64/v8` is `linux/arm64`, `linux/arm` is `linux/arm/v7`.
//!
//! Source: containerd, `platforms.Normalize` (github.com/containerd/platforms, `database.go`).

use std::fmt;

use crate::oci::Platform;

/// How many platforms may be named.
const MAX_PLATFORMS: usize = 32;

/// What stands for every manifest of an index.
const ALL: &str = "all";

/// Which platforms of an image are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// Every manifest of an index, also those that are for no platform.
    All,
    These(Vec<Platform>),
}

/// Why a list names no platforms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error("{0:?} is no platform: write os/architecture, such as linux/amd64 or linux/arm/v7, or all")]
    Invalid(String),
    #[error("\"all\" stands alone: it has every platform")]
    AllAndMore,
    #[error("name at most {MAX_PLATFORMS} platforms, or all")]
    TooMany,
}

/// Which manifests of an index are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Their positions.
    pub positions: Vec<usize>,
    /// The platforms that the index does not have.
    pub missing: Vec<Platform>,
}

impl Default for Platforms {
    /// That of this machine, for containers of Linux.
    fn default() -> Self {
        Self::These(Platform::of_this_machine().into_iter().collect())
    }
}

impl Platforms {
    /// Reads a list; an empty one is the default.
    ///
    /// # Errors
    /// A text is no platform, or there are too many.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, PlatformError> {
        let texts: Vec<&str> = texts.into_iter().collect();
        match &*texts {
            [] => return Ok(Self::default()),
            [ALL] => return Ok(Self::All),
            _ if texts.contains(&ALL) => return Err(PlatformError::AllAndMore),
            _ if texts.len() > MAX_PLATFORMS => return Err(PlatformError::TooMany),
            _ => {}
        }
        let read = |text: &&str| {
            let invalid = || PlatformError::Invalid(text.chars().take(100).collect());
            text.parse().map_err(|_| invalid())
        };
        texts.iter().map(read).collect::<Result<_, _>>().map(Self::These)
    }

    /// Chooses from an index that has these platforms, in its order.
    pub(super) fn choose(&self, offered: &[Option<Platform>]) -> Chosen {
        let everything = || Chosen { positions: (0..offered.len()).collect(), missing: Vec::new() };
        let wanted = match self {
            Self::All => return everything(),
            // Its manifests have their platforms in their configurations.
            Self::These(_) if offered.iter().all(Option::is_none) => return everything(),
            Self::These(wanted) => wanted,
        };
        let normal = |platform: &Platform| normalized(platform.as_str());
        let offered: Vec<Option<String>> = offered.iter().map(|one| one.as_ref().map(normal)).collect();
        let has = |platform: &Platform| {
            let platform = normal(platform);
            offered.iter().any(|one| one.as_ref() == Some(&platform))
        };
        let wanted_names: Vec<String> = wanted.iter().map(normal).collect();
        let positions =
            offered.iter().enumerate().filter(|(_, one)| one.as_ref().is_some_and(|one| wanted_names.contains(one)));
        Chosen {
            positions: positions.map(|(position, _)| position).collect(),
            missing: wanted.iter().filter(|platform| !has(platform)).cloned().collect(),
        }
    }

    /// As they are written in a file or sent to the API.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::All => vec![ALL],
            Self::These(platforms) => platforms.iter().map(Platform::as_str).collect(),
        }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(", "))
    }
}

/// The one spelling of a platform.
fn normalized(platform: &str) -> String {
    let mut parts = platform.splitn(3, '/');
    let (os, architecture, variant) =
        (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("armhf" | "arm", "" | "7") => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        same => same,
    };
    let mark = if variant.is_empty() { "" } else { "/" };
    format!("{}/{architecture}{mark}{variant}", os.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms(texts: &[&str]) -> Vec<Option<Platform>> {
        texts.iter().map(|text| text.parse().ok()).collect()
    }

    #[test]
    fn the_wanted_platforms_are_chosen_and_nothing_else() {
        let offered =
            platforms(&["linux/amd64", "linux/arm/v7", "", "linux/arm64/v8", "windows/amd64", "windows/amd64"]);
        for (wanted, positions, missing) in [
            (&["linux/amd64"][..], &[0][..], &[][..]),
            (&["linux/arm64"], &[3], &[]),
            (&["linux/aarch64"], &[3], &[]),
            (&["linux/arm"], &[1], &[]),
            (&["linux/arm/v6"], &[], &["linux/arm/v6"]),
            (&["windows/amd64"], &[4, 5], &[]),
            (&["linux/arm64", "linux/amd64", "linux/riscv64"], &[0, 3], &["linux/riscv64"]),
            (&["all"], &[0, 1, 2, 3, 4, 5], &[]),
        ] {
            let chosen = Platforms::parse(wanted.iter().copied()).unwrap().choose(&offered);
            let missing_texts: Vec<&str> = chosen.missing.iter().map(Platform::as_str).collect();
            assert_eq!((&*chosen.positions, &*missing_texts), (positions, missing), "{wanted:?}");
        }
        let unnamed = Platforms::default().choose(&[None, None]);
        assert_eq!(unnamed, Chosen { positions: vec![0, 1], missing: Vec::new() });
        assert_eq!(Platforms::default().choose(&[]).positions, [0; 0]);
    }

    #[test]
    fn a_list_of_platforms_is_read_or_refused() {
        assert_eq!(Platforms::parse([]), Ok(Platforms::default()));
        assert_eq!(Platforms::parse(["all"]), Ok(Platforms::All));
        assert_eq!(Platforms::parse(["linux/amd64", "linux/arm/v7"]).unwrap().to_string(), "linux/amd64, linux/arm/v7");
        assert!(Platforms::default().to_string().starts_with("linux/"));
        for wrong in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/am d64", "linux/\u{1b}", "All"] {
            assert!(matches!(Platforms::parse([wrong]), Err(PlatformError::Invalid(_))), "{wrong}");
        }
        assert_eq!(Platforms::parse(["all", "linux/amd64"]), Err(PlatformError::AllAndMore));
        assert_eq!(Platforms::parse(vec!["linux/amd64"; MAX_PLATFORMS + 1]), Err(PlatformError::TooMany));
    }
}
