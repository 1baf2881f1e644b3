/* LeakSanitizer watches the tests, which run in children of Criterion's process, and not that process itself: Criterion
 * leaves some bytes behind. A child's leak does not make Criterion fail; tests/run sees its report and does. */
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
int __lsan_is_turned_off(void);

int __lsan_is_turned_off(void)
{
	return getenv("BXFI_MAP") == NULL; /* set by Criterion for its children */
}
#else
extern int leaks_are_not_watched;
#endif
