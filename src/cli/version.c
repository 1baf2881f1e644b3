/* adit --version */
#include "cli/cli_priv.h"

#include <ares.h>
#include <crypt.h>
#include <event2/event.h>
#include <nghttp2/nghttp2.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <yaml.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

void version_print(void)
{
	printf("adit %s\n", PACKAGE_VERSION);
	printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
	printf("libevent %s\n", event_get_version());
	printf("c-ares %s\n", ares_version(NULL));
	printf("libyaml %s\n", yaml_get_version_string());
	printf("libnghttp2 %s\n", nghttp2_version(0)->version_str);
#ifdef XCRYPT_VERSION_STR
	printf("libxcrypt %s\n", XCRYPT_VERSION_STR);
#endif
}
