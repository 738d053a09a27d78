//! What a layer has made so far, in memory.
//!
//! The layer's directory begins empty and only its applier writes there, so this tree knows all of it. Paths are resolved
//! in it as a process with the layer for its root would resolve them: a symlink on the way is followed within the layer,
//! an absolute one from the layer's root, and `..` never leaves that. What comes out is a chain of real directories, which
//! the kernel is then told to open with no symlink at all. A mistake here can name a wrong directory of the layer, but none
//! outside of it.

use std::collections::{BTreeSet, HashMap};

/// Symlinks on the way of one path, as the kernel has it.
const MAX_SYMLINKS: u32 = 40;
/// Directories below each other. Deeper ones could not be removed with a bounded number of descriptors.
const MAX_DEPTH: u32 = 400;

/// Which directory of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirId(u32);

/// The layer's root.
pub(crate) const ROOT: DirId = DirId(0);

/// What a name is.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Dir(DirId),
    Symlink(Box<[u8]>),
    /// A file with the bytes that it takes on disk, or a device or fifo.
    Other(u64),
}

/// What a tar entry said of a directory.
#[derive(Clone, Debug)]
pub(crate) struct DirMeta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) parent: DirId,
    pub(crate) name: Box<[u8]>,
    depth: u32,
    pub(crate) children: HashMap<Box<[u8]>, Node>,
    /// Names of lower layers that this layer hides.
    pub(crate) whiteouts: BTreeSet<Box<[u8]>>,
    /// Nothing of lower layers shows in it.
    pub(crate) opaque: bool,
    /// None: no entry has named it, it is the parent of one.
    pub(crate) meta: Option<DirMeta>,
}

/// Why a path cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathError(pub(crate) &'static str);

/// What has to be done on disk so that a path's parent exists.
pub(crate) trait Disk {
    type Error: From<PathError>;
    /// Makes an empty directory. The tree has it already.
    fn make_dir(&mut self, tree: &Tree, dir: DirId) -> Result<(), Self::Error>;
    /// Removes what is no directory, and was known as `node`.
    fn remove(&mut self, tree: &Tree, parent: DirId, name: &[u8], node: &Node) -> Result<(), Self::Error>;
}

#[derive(Debug)]
pub(crate) struct Tree {
    dirs: Vec<Dir>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Dir {
            parent: ROOT,
            name: Box::default(),
            depth: 0,
            children: HashMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: false,
            meta: None,
        };
        Self { dirs: vec![root] }
    }

    pub(crate) fn dir(&self, id: DirId) -> &Dir {
        &self.dirs[id.0 as usize]
    }

    pub(crate) fn dir_mut(&mut self, id: DirId) -> &mut Dir {
        &mut self.dirs[id.0 as usize]
    }

    /// The path of a directory from the layer's root, `.` for that.
    pub(crate) fn path(&self, id: DirId) -> Vec<u8> {
        if id == ROOT {
            return b".".to_vec();
        }
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(&*self.dir(at).name);
            at = self.dir(at).parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Adds a directory to its parent's children.
    pub(crate) fn add_dir(&mut self, parent: DirId, name: &[u8]) -> Result<DirId, PathError> {
        let depth = self.dir(parent).depth + 1;
        if depth > MAX_DEPTH {
            return Err(PathError("directories are nested too deep"));
        }
        let id = DirId(u32::try_from(self.dirs.len()).map_err(|_| PathError("the layer has too many directories"))?);
        self.dirs.push(Dir {
            parent,
            name: name.into(),
            depth,
            children: HashMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: false,
            meta: None,
        });
        self.dir_mut(parent).children.insert(name.into(), Node::Dir(id));
        Ok(id)
    }

    /// The directory that `parts` name, made where it is missing. What is in the way and is neither directory nor symlink
    /// is replaced.
    pub(crate) fn make_parents<D: Disk>(&mut self, disk: &mut D, parts: &[&[u8]]) -> Result<DirId, D::Error> {
        let mut walk = Walk::new(parts);
        while let Some(part) = walk.next() {
            match self.dir(walk.at).children.get(part.as_slice()) {
                Some(Node::Dir(dir)) => walk.at = *dir,
                Some(Node::Symlink(target)) => walk.follow(target)?,
                other => {
                    let in_the_way = other.cloned();
                    if is_reserved(&part) {
                        return Err(
                            PathError("a directory's name begins with .wh., which is kept for whiteouts").into()
                        );
                    }
                    if let Some(node) = in_the_way {
                        disk.remove(self, walk.at, &part, &node)?;
                    }
                    let dir = self.add_dir(walk.at, &part)?;
                    disk.make_dir(self, dir)?;
                    walk.at = dir;
                }
            }
            walk.step_up(self);
        }
        Ok(walk.at)
    }

    /// The directory that `parts` name, if this layer has it.
    pub(crate) fn find_dir(&self, parts: &[&[u8]]) -> Result<Option<DirId>, PathError> {
        let mut walk = Walk::new(parts);
        walk.step_up(self);
        while let Some(part) = walk.next() {
            match self.dir(walk.at).children.get(part.as_slice()) {
                Some(Node::Dir(dir)) => walk.at = *dir,
                Some(Node::Symlink(target)) => walk.follow(target)?,
                _ => return Ok(None),
            }
            walk.step_up(self);
        }
        Ok(Some(walk.at))
    }
}

/// A resolution under way.
struct Walk {
    at: DirId,
    /// Parts still to go, the next one last.
    rest: Vec<Vec<u8>>,
    links: u32,
}

impl Walk {
    fn new(parts: &[&[u8]]) -> Self {
        Self { at: ROOT, rest: parts.iter().rev().map(|part| part.to_vec()).collect(), links: 0 }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.rest.pop()
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), PathError> {
        self.links += 1;
        if self.links > MAX_SYMLINKS {
            return Err(PathError("too many symlinks are on its way"));
        }
        if target.first() == Some(&b'/') {
            self.at = ROOT;
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        self.rest.extend(parts.rev().map(<[u8]>::to_vec));
        if self.rest.len() > 4096 {
            return Err(PathError("the symlinks on its way make it too long"));
        }
        Ok(())
    }

    /// Takes the `..` that come next. The root's parent is the root.
    fn step_up(&mut self, tree: &Tree) {
        while self.rest.last().is_some_and(|part| part == b"..") {
            self.rest.pop();
            self.at = tree.dir(self.at).parent;
        }
    }
}

/// The parts of a path in an archive, from the layer's root. Empty for the root itself.
///
/// A leading slash means nothing, as in any tar. `..` is taken out of the text; one that leads out of the layer is an error.
pub(crate) fn parts(path: &[u8]) -> Result<Vec<&[u8]>, PathError> {
    const MOST: usize = 4095;
    if path.is_empty() {
        return Err(PathError("the path is empty"));
    }
    if path.len() > MOST {
        return Err(PathError("the path is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(PathError("the path has a NUL"));
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(PathError("the path leads out of the layer"))?;
            }
            part if part.len() > 255 => return Err(PathError("a name in the path is longer than 255 bytes")),
            part => parts.push(part),
        }
    }
    Ok(parts)
}

/// What only whiteouts begin with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Names that mean something to AUFS begin so.
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Hides all of the lower layers in its directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

pub(crate) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}
