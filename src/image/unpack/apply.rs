//! Tar entries to an overlay lower directory.
//!
//! Whiteouts, opaque directories and the attributes of directories are kept in the [`Tree`] and written at the end, so the
//! order of a layer's entries does not matter to them: a whiteout never hides what its own layer has, and a directory's
//! time is not changed by what is put in later.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use super::Limits;
use super::disk::Disk;
use super::error::UnpackError;
use super::reader::{Entry, Kind, TarReader};
use super::sparse::Sparse;
use super::tree::{self, Dir, DirId, DirMeta, Node, ROOT, Tree};

/// What a layer became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes on disk: data in blocks of 4 KiB, and one for each directory.
    pub bytes: u64,
    pub inodes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Nothing of lower layers is visible at all.
    pub opaque_root: bool,
}

/// Applies a tar stream to an empty directory.
pub(crate) fn apply<R: BufRead>(
    reader: &mut TarReader<R>,
    root: OwnedFd,
    limits: &Limits,
) -> Result<Applied, UnpackError> {
    let mut applier = Applier { disk: Disk::new(root, limits), tree: Tree::new(), entries: 0 };
    while let Some(entry) = reader.next()? {
        applier.entries += 1;
        limits.check("the number of entries", applier.entries, limits.entries)?;
        applier.entry(reader, &entry)?;
    }
    applier.finish()
}

struct Applier<'a> {
    disk: Disk<'a>,
    tree: Tree,
    entries: u64,
}

impl Applier<'_> {
    fn entry<R: BufRead>(&mut self, reader: &mut TarReader<R>, entry: &Entry) -> Result<(), UnpackError> {
        let fail = |error: tree::PathError| UnpackError::entry(&entry.path, error.0);
        let parts = tree::parts(&entry.path).map_err(fail)?;
        self.disk.begin(&entry.path);
        let Some((name, parents)) = parts.split_last() else {
            return self.root(entry);
        };
        if parents.iter().any(|part| part.starts_with(tree::WHITEOUT_META)) {
            // Below AUFS's own directories.
            return Ok(());
        }
        if parents.iter().any(|part| tree::is_reserved(part)) {
            return Err(UnpackError::entry(&entry.path, "a name begins with .wh., which is kept for whiteouts"));
        }
        if let Some(hidden) = name.strip_prefix(tree::WHITEOUT) {
            return self.whiteout(entry, parents, name, hidden);
        }
        let parent = self.tree.make_parents(&mut self.disk, parents)?;
        match &entry.kind {
            Kind::Directory => self.directory(entry, parent, name),
            Kind::HardLink(target) => self.hard_link(entry, parent, name, target),
            Kind::CharDevice(0, 0) => {
                // That is how overlayfs itself writes a whiteout, and it would act as one.
                self.clear(parent, name)?;
                self.tree.dir_mut(parent).whiteouts.insert((*name).into());
                Ok(())
            }
            Kind::File { sparse } => {
                self.clear(parent, name)?;
                let blocks = self.file(reader, entry, parent, name, sparse.as_ref())?;
                self.tree.dir_mut(parent).children.insert((*name).into(), Node::Other(blocks));
                Ok(())
            }
            Kind::Symlink(target) => {
                self.clear(parent, name)?;
                self.disk.symlink(&self.tree, parent, name, target, entry)?;
                self.tree.dir_mut(parent).children.insert((*name).into(), Node::Symlink(target.as_slice().into()));
                Ok(())
            }
            Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => {
                self.clear(parent, name)?;
                self.disk.node(&self.tree, parent, name, entry)?;
                self.tree.dir_mut(parent).children.insert((*name).into(), Node::Other(0));
                Ok(())
            }
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if !matches!(entry.kind, Kind::Directory) {
            return Err(UnpackError::entry(&entry.path, "the layer's root can only be a directory"));
        }
        self.tree.dir_mut(ROOT).meta = Some(meta(entry));
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, parent: DirId, name: &[u8]) -> Result<(), UnpackError> {
        let dir = match self.tree.dir(parent).children.get(name) {
            // Its attributes are replaced, what is in it stays.
            Some(Node::Dir(dir)) => *dir,
            _ => {
                self.clear(parent, name)?;
                let added = self.tree.add_dir(parent, name);
                let dir = added.map_err(|error| UnpackError::entry(&entry.path, error.0))?;
                tree::Disk::make_dir(&mut self.disk, &self.tree, dir)?;
                dir
            }
        };
        self.tree.dir_mut(dir).meta = Some(meta(entry));
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, parent: DirId, name: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let fail = |reason| UnpackError::entry(&entry.path, reason);
        let outside = "it is a hard link to something outside of the layer";
        let parts = tree::parts(target).map_err(|_| fail(outside))?;
        let Some((target_name, parents)) = parts.split_last() else {
            return Err(fail("it is a hard link to a directory"));
        };
        let find = |tree: &Tree| -> Result<(DirId, Node), UnpackError> {
            let missing = "it is a hard link to something that the layer does not have";
            let dir = tree.find_dir(parents).map_err(|error| fail(error.0))?.ok_or_else(|| fail(missing))?;
            let node = tree.dir(dir).children.get(*target_name).ok_or_else(|| fail(missing))?;
            Ok((dir, node.clone()))
        };
        let (dir, node) = find(&self.tree)?;
        if matches!(node, Node::Dir(_)) {
            return Err(fail("it is a hard link to a directory"));
        }
        if dir == parent && *target_name == name {
            return Ok(());
        }
        self.clear(parent, name)?;
        // What was cleared may have been a directory with the target in it.
        let (dir, node) = find(&self.tree)?;
        self.disk.hard_link(&self.tree, (dir, target_name), (parent, name))?;
        let node = match node {
            Node::Other(_) => Node::Other(0),
            node => node,
        };
        self.tree.dir_mut(parent).children.insert(name.into(), node);
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parents: &[&[u8]], name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        if name == tree::OPAQUE {
            let dir = self.tree.make_parents(&mut self.disk, parents)?;
            self.tree.dir_mut(dir).opaque = true;
            return Ok(());
        }
        if name.starts_with(tree::WHITEOUT_META) {
            // AUFS kept its own books under such names. They say nothing of the image.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::entry(&entry.path, "it is a whiteout that names nothing"));
        }
        let dir = self.tree.make_parents(&mut self.disk, parents)?;
        self.tree.dir_mut(dir).whiteouts.insert(hidden.into());
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: &Entry,
        parent: DirId,
        name: &[u8],
        sparse: Option<&Sparse>,
    ) -> Result<u64, UnpackError> {
        let mut file = self.disk.create(&self.tree, parent, name, entry)?;
        match sparse {
            None => loop {
                let data = reader.data()?;
                let len = data.len();
                if len == 0 {
                    break;
                }
                self.disk.write(&mut file, data)?;
                reader.advance(len);
            },
            Some(sparse) => {
                for segment in &sparse.map {
                    self.disk.seek(&mut file, segment.offset)?;
                    let mut left = segment.len;
                    while left > 0 {
                        let data = reader.data()?;
                        let len = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        if len == 0 {
                            return Err(UnpackError::entry(&entry.path, "its data is shorter than its map"));
                        }
                        self.disk.write(&mut file, &data[..len])?;
                        reader.advance(len);
                        left -= len as u64;
                    }
                }
                self.disk.set_len(&file, sparse.real_size)?;
            }
        }
        self.disk.close(file, entry)
    }

    /// Makes room for a name.
    fn clear(&mut self, parent: DirId, name: &[u8]) -> Result<(), UnpackError> {
        match self.tree.dir_mut(parent).children.remove(name) {
            None => Ok(()),
            Some(Node::Dir(dir)) => self.remove_dir(dir),
            Some(node) => tree::Disk::remove(&mut self.disk, &self.tree, parent, name, &node),
        }
    }

    /// Removes a directory that is no longer its parent's child, with all that is in it. The depth is that of the tree,
    /// which is limited.
    fn remove_dir(&mut self, dir: DirId) -> Result<(), UnpackError> {
        for (name, node) in std::mem::take(&mut self.tree.dir_mut(dir).children) {
            match node {
                Node::Dir(child) => self.remove_dir(child)?,
                node => tree::Disk::remove(&mut self.disk, &self.tree, dir, &name, &node)?,
            }
        }
        self.disk.remove_dir(&self.tree, dir)
    }

    fn finish(mut self) -> Result<Applied, UnpackError> {
        let mut pending = vec![ROOT];
        while let Some(id) = pending.pop() {
            self.finish_dir(id)?;
            let children = self.tree.dir(id).children.values();
            pending.extend(children.filter_map(|node| match node {
                Node::Dir(dir) => Some(*dir),
                _ => None,
            }));
        }
        Ok(Applied {
            bytes: self.disk.bytes(),
            inodes: self.disk.inodes(),
            entries: self.entries,
            opaque_root: self.tree.dir(ROOT).opaque,
        })
    }

    fn finish_dir(&mut self, id: DirId) -> Result<(), UnpackError> {
        let dir: &Dir = self.tree.dir(id);
        let hidden_dirs: Vec<DirId> = dir
            .whiteouts
            .iter()
            .filter_map(|name| match dir.children.get(name) {
                Some(Node::Dir(child)) => Some(*child),
                _ => None,
            })
            .collect();
        if !dir.opaque {
            // In an opaque directory there is nothing to hide, and a whiteout would show up in listings.
            for name in dir.whiteouts.iter().filter(|name| !dir.children.contains_key(*name)) {
                self.disk.whiteout(&self.tree, id, name)?;
            }
        }
        if dir.opaque || dir.meta.is_some() {
            self.disk.finish_dir(&self.tree, id)?;
        }
        // The lower directory of that name is hidden, this layer's own is not.
        for child in hidden_dirs {
            self.tree.dir_mut(child).opaque = true;
        }
        Ok(())
    }
}

fn meta(entry: &Entry) -> DirMeta {
    DirMeta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: entry.xattrs.clone() }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
