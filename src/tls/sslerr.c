/* Turns what OpenSSL left in its queue into words. The queue is per thread and must be empty before the next SSL call,
 * or libevent takes an old error for the connection's own. */
#include "tls/sslerr_priv.h"

#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

const char *sslerr_drain(char *buf, size_t size)
{
	unsigned long code = ERR_get_error();

	if (code == 0) {
		(void)snprintf(buf, size, "no reason given");
		return buf;
	}
	if (ERR_SYSTEM_ERROR(code)) {
		char text[96];

		/* the GNU form, which may return a string of its own */
		(void)snprintf(buf, size, "%s", strerror_r(ERR_GET_REASON(code), text, sizeof text));
	} else {
		const char *reason = ERR_reason_error_string(code);
		const char *library = ERR_lib_error_string(code);

		if (reason != NULL && library != NULL)
			(void)snprintf(buf, size, "%s (%s)", reason, library);
		else if (reason != NULL)
			(void)snprintf(buf, size, "%s", reason);
		else
			(void)snprintf(buf, size, "error %d in %s", ERR_GET_REASON(code), library ? library : "OpenSSL");
	}
	ERR_clear_error();
	return buf;
}
