/* Allocation over the C library, with a per-thread fault counter.
 *
 * The counter is compiled in always: one thread-local load per allocation, and the release build is the tested one. */
#include "adit/base/mem.h"

#include "adit/base/fault.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

struct fault {
	unsigned long countdown; /* 0: off */
	bool forever, hit;
};

static _Thread_local struct fault fault;

static bool fails_now(void)
{
	if (fault_alloc())
		return true;
	if (fault.countdown == 0)
		return false;
	if (fault.countdown > 1) {
		fault.countdown--;
		return false;
	}
	fault.hit = true;
	if (!fault.forever)
		fault.countdown = 0;
	return true;
}

void mem_fault_set(unsigned long nth, bool forever)
{
	fault = (struct fault){ .countdown = nth, .forever = forever };
}

bool mem_fault_hit(void)
{
	return fault.hit;
}

void *mem_alloc(size_t size)
{
	return fails_now() ? NULL : calloc(1, size ? size : 1);
}

void *mem_array(size_t count, size_t size)
{
	if (fails_now())
		return NULL;
	return count == 0 || size == 0 ? calloc(1, 1) : calloc(count, size);
}

void *mem_resize(void *p, size_t count, size_t size)
{
	if (fails_now() || count == 0 || size == 0)
		return NULL;
	return reallocarray(p, count, size);
}

char *mem_strndup(const char *s, size_t n)
{
	char *copy = n == SIZE_MAX ? NULL : mem_alloc(n + 1);

	if (copy && n > 0)
		memcpy(copy, s, n);
	return copy;
}

char *mem_strdup(const char *s)
{
	return mem_strndup(s, strlen(s));
}

void mem_free(void *p)
{
	free(p);
}

void mem_burn(void *p, size_t size)
{
	if (p && size > 0)
		OPENSSL_cleanse(p, size);
}
