/* Identity of objects and assertions that stay on in release builds.
 *
 * Every object that travels as a void * begins with `uint32_t magic`. OBJ_INIT stamps it, OBJ_CAST checks
 * it on the way back, OBJ_FINI clears it, so that a use after free dies at the next callback instead of
 * corrupting a stranger's tunnel. */
#ifndef ADIT_BASE_OBJ_H
#define ADIT_BASE_OBJ_H

#include <stdint.h>
#include <stddef.h>

/* Prints what was expected and where, then aborts. Never prints data of a connection. */
_Noreturn void obj_panic(const char *expr, const char *file, int line, const char *func);

#define ADIT_ASSERT(expr) ((expr) ? (void)0 : obj_panic(#expr, __FILE__, __LINE__, __func__))

#define OBJ_MAGIC(a, b, c, d) \
	((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))
#define OBJ_INIT(obj, value) ((obj)->magic = (value))
#define OBJ_FINI(obj) ((obj)->magic = 0)
#define OBJ_CHECK(obj, value) ADIT_ASSERT((obj) != NULL && (obj)->magic == (value))

/* struct conn *c; OBJ_CAST(c, ctx, CONN_MAGIC); */
#define OBJ_CAST(to, from, value)      \
	do {                           \
		(to) = (from);         \
		OBJ_CHECK(to, value);  \
	} while (0)

/* The object that holds `member` at address ptr. */
#define OBJ_OF(ptr, type, member) ((type *)((uintptr_t)(ptr) - offsetof(type, member)))

#define ADIT_UNUSED __attribute__((unused))
#define ADIT_MUST_USE __attribute__((warn_unused_result))
#define ADIT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#endif
