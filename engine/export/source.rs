//! Where an export's catalogue lies.

use std::path::{Path, PathBuf};

use super::json;
use super::{ExportError, Manifest};

/// The built file.
const BUILT: &str = "catalog.sid";
/// Sources, in the order in which they are looked for. After them any other `*.index.json`.
const SOURCES: [&str; 3] = ["items.jsonl", "items.csv", "index.json"];

/// A catalogue, built or still to be built. Both are paths of existing files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogSource {
    /// A `.sid` file, ready to be mapped.
    Built(PathBuf),
    /// `*.jsonl`, `*.csv` or `*.json`: a catalogue has to be built from it.
    Source(PathBuf),
}

impl CatalogSource {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            CatalogSource::Built(path) | CatalogSource::Source(path) => path,
        }
    }
}

/// Finds the catalogue of the export in `dir`.
pub(super) fn locate(dir: &Path, manifest: &Manifest) -> Result<CatalogSource, ExportError> {
    if let Some(name) = manifest.catalog() {
        return named(manifest, &dir.join(name));
    }
    if json::regular_file_bytes(&dir.join(BUILT))?.is_some() {
        return Ok(CatalogSource::Built(dir.join(BUILT)));
    }
    for name in SOURCES {
        if json::regular_file_bytes(&dir.join(name))?.is_some() {
            return Ok(CatalogSource::Source(dir.join(name)));
        }
    }
    let mut found = index_files(dir)?;
    match (found.pop(), found.pop()) {
        (Some(only), None) => Ok(CatalogSource::Source(only)),
        (Some(one), Some(other)) => Err(ExportError::Catalog {
            path: dir.to_owned(),
            detail: format!(
                "both {} and {} could be the catalogue's source; name one with `catalog` in sidereal.json",
                other.display(),
                one.display()
            ),
        }),
        (None, _) => Err(ExportError::Catalog {
            path: dir.to_owned(),
            detail: format!(
                "no catalogue: neither {BUILT} nor items.jsonl, items.csv or *.index.json; build one with \
                 `sidereal catalog build --from ITEMS --out {}`",
                dir.join(BUILT).display()
            ),
        }),
    }
}

/// The file that the manifest names; its kind is told by its extension.
fn named(manifest: &Manifest, path: &Path) -> Result<CatalogSource, ExportError> {
    let failed = |detail: String| Err(ExportError::Catalog { path: path.to_owned(), detail });
    let by = manifest.path().display();
    if json::regular_file_bytes(path)?.is_none() {
        return failed(format!(
            "the catalogue that {by} names does not exist; build it with `sidereal catalog build --from ITEMS --out {}`, \
             or correct `catalog`",
            path.display()
        ));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("sid") => Ok(CatalogSource::Built(path.to_owned())),
        Some("jsonl" | "csv" | "json") => Ok(CatalogSource::Source(path.to_owned())),
        _ => failed(format!("`catalog` in {by} must name a .sid, .jsonl, .csv or .json file")),
    }
}

/// `*.index.json` beside the manifest, sorted, without the indexes of sharded weights.
fn index_files(dir: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let failed = |source| ExportError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let of_weights = [".safetensors.index.json", ".bin.index.json"].iter().any(|end| name.ends_with(end));
        if name.ends_with(".index.json") && !of_weights && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
