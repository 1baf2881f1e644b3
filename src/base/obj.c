/* The one place where the process gives up: an invariant of our own is broken. */
#include "adit/base/obj.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void obj_panic(const char *expr, const char *file, int line, const char *func)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "adit: fatal: %s:%d: %s: '%s' does not hold\n", file, line, func, expr);

	/* stdio's locks may be held by the thread that broke */
	if (n > 0 && write(STDERR_FILENO, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1) < 0)
		abort();
	abort();
}
