//! The allocator of the binary: mimalloc, asked so that a block takes no more than its size.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_long;

use libmimalloc_sys as mimalloc;

/// Blocks of this many bytes and more begin at a multiple of it, and smaller ones at a multiple of every power of two that they
/// are long (`MI_MAX_ALIGN_SIZE` on machines of 64 bits, and `mi_bin`).
const NATURAL: usize = 16;

/// Options of mimalloc 3 that its bindings do not name, and what they are set to. The allocator keeps pages that nothing is in any
/// more: some of each size of block, and others for ten milliseconds, which is for ever when the replica has become idle by
/// then. What thousands of handshakes took would stay with it (some 4 MiB, measured after 15,000 of them, 256 at a time).
const KEEP_NO_EMPTY_PAGES: [(mimalloc::mi_option_t, c_long); 2] = [
    // mi_option_purge_delay, in milliseconds.
    (15, 1),
    // mi_option_page_full_retain.
    (36, 0),
];

/// mimalloc. Messages are made on one thread and dropped on another, each of them some dozens of small allocations: with glibc's
/// allocator the two wait for each other, and an auditor needs half as much of the processor again (measured over 200,000
/// events).
///
/// What needs no more alignment than all blocks have is asked for without: `mi_malloc_aligned` takes a block of the next
/// size, and a longer way, for whatever is no power of two (160 bytes take 192).
pub struct Allocator;

impl Allocator {
    /// Tells mimalloc to give back what it does not use.
    #[expect(unsafe_code, reason = "the allocator has no other way to be told")]
    pub fn keep_no_empty_pages() {
        for (option, value) in KEEP_NO_EMPTY_PAGES {
            // SAFETY: it sets a number, in memory of the allocator's own that exists from the start.
            unsafe { mimalloc::mi_option_set(option, value) };
        }
    }
}

const fn is_natural(align: usize, size: usize) -> bool {
    align <= NATURAL && align <= size
}

// SAFETY: mimalloc's functions are those of C, and keep to what `GlobalAlloc` asks for. Blocks of `mi_malloc` have the alignment of
// a layout that `is_natural` lets through.
#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size will do, and an alignment that is a power of two, as a layout's is.
        unsafe {
            let natural = is_natural(align, size);
            if natural { mimalloc::mi_malloc(size) } else { mimalloc::mi_malloc_aligned(size, align) }.cast()
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            let natural = is_natural(align, size);
            if natural { mimalloc::mi_zalloc(size) } else { mimalloc::mi_zalloc_aligned(size, align) }.cast()
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller has the block from here.
        unsafe { mimalloc::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: the caller has the block from here; for the rest as above.
        unsafe {
            if is_natural(align, size) {
                mimalloc::mi_realloc(block.cast(), size).cast()
            } else {
                mimalloc::mi_realloc_aligned(block.cast(), size, align).cast()
            }
        }
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_they_have_to_be_also_when_they_grow_and_shrink() {
        let sizes = (1..=2_100).chain([10_000, 65_536, 100_000, 5_000_000]);
        for (size, align) in sizes.flat_map(|size| [1, 2, 4, 8, 16, 32, 64, 4_096].map(|align| (size, align)))
        {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: each block is used as long as its layout says, and freed once.
            unsafe {
                let zeroed = Allocator.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                let mut block = Allocator.alloc(layout);
                assert_eq!((zeroed.addr() % align, block.addr() % align), (0, 0), "{layout:?}");
                block.write_bytes(7, size);
                let mut now = layout;
                for size in [size + size / 2 + 1, size.div_ceil(3)] {
                    let kept = size.min(now.size());
                    block = Allocator.realloc(block, now, size);
                    now = Layout::from_size_align(size, align).unwrap();
                    assert_eq!(block.addr() % align, 0, "{now:?}");
                    assert!(std::slice::from_raw_parts(block, kept).iter().all(|byte| *byte == 7));
                    block.write_bytes(7, size);
                }
                Allocator.dealloc(block, now);
                Allocator.dealloc(zeroed, layout);
            }
        }
    }

    #[test]
    fn a_block_takes_no_more_than_its_size() {
        for size in [48, 80, 96, 112, 160, 192, 224] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: the block is looked at before it is freed, once.
            unsafe {
                let block = Allocator.alloc(layout);
                assert_eq!(mimalloc::mi_usable_size(block.cast()), size);
                Allocator.dealloc(block, layout);
            }
        }
    }
}
