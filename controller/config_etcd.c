/* SPDX-License-Identifier: Apache-2.0 */
#include "controller/config_etcd.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"

#define TEXT(key, member)                                                     \
	CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, \
			       struct controller_etcd, member, 1, 1023)

const cyaml_schema_field_t config_etcd_fields[] = {
	TEXT("cacert", tls.cacert), TEXT("cert", tls.cert),
	TEXT("key", tls.key),	    TEXT("server_name", tls.server_name),
	TEXT("user", user),	    TEXT("password_file", password_file),
	TEXT("prefix", prefix),	    CYAML_FIELD_END,
};

static int text_copy(const char *text, char **ret_copy)
{
	*ret_copy = text ? strdup(text) : NULL;
	return text && !*ret_copy ? -ENOMEM : 0;
}

static int etcd_check(const char *path, const struct controller_etcd *e, char why[CONFIG_WHY_MAX])
{
	const char *wrong = NULL;

	if (!e->user != !e->password_file)
		wrong = "etcd.user and etcd.password_file go together";
	else if (!e->tls.cert != !e->tls.key)
		wrong = "etcd.cert and etcd.key go together";
	else if ((e->tls.cert || e->tls.server_name) && !e->tls.cacert)
		wrong = "etcd.cacert is needed to know the members of etcd by";
	else if (e->prefix && e->prefix[strlen(e->prefix) - 1] != '/')
		wrong = "etcd.prefix must end with a slash";
	if (!wrong)
		return 0;
	snprintf(why, CONFIG_WHY_MAX, "%s: %s", path, wrong);
	return -EINVAL;
}

int config_etcd_take(const char *path, const struct controller_etcd *etcd, const char *advertise,
		     struct controller_config *c, char why[CONFIG_WHY_MAX])
{
	int r = text_copy(advertise, &c->advertise);

	if (r == 0 && advertise && !strchr(advertise, ':')) {
		snprintf(why, CONFIG_WHY_MAX, "%s: advertise is \"%.64s\", but must be HOST:PORT",
			 path, advertise);
		return -EINVAL;
	}
	if (r < 0 || !etcd)
		return r;
	r = etcd_check(path, etcd, why);
	if (r < 0)
		return r;
	if (text_copy(etcd->tls.cacert, &c->etcd.tls.cacert) < 0 ||
	    text_copy(etcd->tls.cert, &c->etcd.tls.cert) < 0 ||
	    text_copy(etcd->tls.key, &c->etcd.tls.key) < 0 ||
	    text_copy(etcd->tls.server_name, &c->etcd.tls.server_name) < 0 ||
	    text_copy(etcd->user, &c->etcd.user) < 0 ||
	    text_copy(etcd->password_file, &c->etcd.password_file) < 0 ||
	    text_copy(etcd->prefix, &c->etcd.prefix) < 0)
		return -ENOMEM;
	return 0;
}

void config_etcd_free(struct controller_config *c)
{
	free(c->advertise);
	free(c->etcd.tls.cacert);
	free(c->etcd.tls.cert);
	free(c->etcd.tls.key);
	free(c->etcd.tls.server_name);
	free(c->etcd.user);
	free(c->etcd.password_file);
	free(c->etcd.prefix);
}

static bool is_wildcard(const char *listen)
{
	return strncmp(listen, "0.0.0.0:", 8) == 0 || strncmp(listen, "[::]:", 5) == 0;
}

/* The address from which packets to the endpoint leave; none is sent. */
static int local_towards(const char *endpoint, char host[NI_MAXHOST])
{
	const struct addrinfo hints = { .ai_socktype = SOCK_DGRAM };
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	_cleanup_close_ int fd = -1;
	struct addrinfo *list;
	char name[256];
	size_t n;
	int r;

	snprintf(name, sizeof(name), "%s", endpoint);
	n = strcspn(name, ",");
	name[n] = 0;
	if (!strrchr(name, ':'))
		return -EINVAL;
	*strrchr(name, ':') = 0;
	if (name[0] == '[') {
		memmove(name, name + 1, strlen(name));
		name[strcspn(name, "]")] = 0;
	}
	if (getaddrinfo(name, "1", &hints, &list) != 0)
		return -ENOENT;
	fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	r = fd < 0 ? -errno : connect(fd, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	if (r < 0 || getsockname(fd, (struct sockaddr *)&local, &len) < 0)
		return -EHOSTUNREACH;
	return getnameinfo((struct sockaddr *)&local, len, host, NI_MAXHOST, NULL, 0,
			   NI_NUMERICHOST) == 0
		       ? 0
		       : -EINVAL;
}

void config_advertise(const struct controller_config *c, char ret_address[ADVERTISE_MAX])
{
	const char *wildcard = NULL;
	char host[NI_MAXHOST];

	ret_address[0] = 0;
	if (c->advertise) {
		snprintf(ret_address, ADVERTISE_MAX, "%s", c->advertise);
		return;
	}
	for (unsigned int i = 0; i < c->listen_count; i++) {
		if (strncmp(c->listen[i], "unix:", 5) == 0)
			continue;
		if (!is_wildcard(c->listen[i])) {
			snprintf(ret_address, ADVERTISE_MAX, "%s", c->listen[i]);
			return;
		}
		wildcard = wildcard ?: c->listen[i];
	}
	if (wildcard && strncmp(c->store, "etcd:", 5) == 0 &&
	    local_towards(c->store + 5, host) == 0)
		snprintf(ret_address, ADVERTISE_MAX, strchr(host, ':') ? "[%s]%s" : "%s%s", host,
			 strrchr(wildcard, ':'));
}
