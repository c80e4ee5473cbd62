# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_common_http SOURCES unit/common/http.c LIBS mcmesh_metrics PkgConfig::SYSTEMD)
