//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::CatalogError;

/// A file that is removed again unless it is renamed into place.
pub(super) struct TemporaryFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    renamed: bool,
}

impl TemporaryFile {
    /// A new file beside `target`.
    pub(super) fn beside(target: &Path) -> Result<TemporaryFile, CatalogError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = target.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|source| CatalogError::Io { action: "create", path: path.clone(), source })?;
        Ok(TemporaryFile { file, path, renamed: false })
    }

    /// Puts it in the place of `target`, for good.
    pub(super) fn rename_to(mut self, target: &Path) -> Result<(), CatalogError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Io { action, path, source }
        };
        fs::rename(&self.path, target).map_err(failed("rename the finished file to", target))?;
        self.renamed = true;
        // The rename itself is durable only once its directory is.
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync directory", directory))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing more can be done about a temporary file that will not go away; the error that led here is reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}
