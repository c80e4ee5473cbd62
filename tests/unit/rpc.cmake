# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_common_rpc SOURCES unit/common/rpc.c
	LIBS mcmesh_rpc mcmesh_proto PkgConfig::SYSTEMD)
mcmesh_test(test_common_out SOURCES unit/common/json.c unit/common/table.c
	LIBS mcmesh_out mcmesh_proto PkgConfig::JANSSON)
mcmesh_test(test_common_rpc_tls SOURCES unit/common/rpc_tls.c LIBS mcmesh_rpc)
target_compile_definitions(test_common_rpc_tls PRIVATE SOURCE_DIR="${CMAKE_SOURCE_DIR}")
