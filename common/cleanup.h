/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Scope-bound ownership: every owning local carries a cleanup attribute and
 * every escape is a TAKE_*, so that one function can be seen to be leak-free
 * without reading its callees.
 */
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_	_cleanup_(cleanup_free_p)
#define _cleanup_close_ _cleanup_(cleanup_close_p)

/* DEFINE_CLEANUP(struct foo *, foo_free): defines foo_free_p for _cleanup_(). */
#define DEFINE_CLEANUP(type, fn)           \
	static inline void fn##_p(type *p) \
	{                                  \
		if (*p)                    \
			fn(*p);            \
	}

#define TAKE_PTR(p)                        \
	({                                 \
		__typeof__(p) *_pp = &(p); \
		__typeof__(p) _v = *_pp;   \
		*_pp = NULL;               \
		_v;                        \
	})

#define TAKE_FD(fd)               \
	({                        \
		int *_fp = &(fd); \
		int _v = *_fp;    \
		*_fp = -1;        \
		_v;               \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
