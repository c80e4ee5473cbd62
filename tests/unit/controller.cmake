# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_controller_plan SOURCES unit/controller/plan.c LIBS mcmesh_plan)
mcmesh_test(test_controller_store SOURCES unit/controller/store.c unit/controller/store_harness.c
	unit/controller/etcd_server.c LIBS mcmesh_store)
mcmesh_test(test_controller_sqlite SOURCES unit/controller/sqlite.c
	unit/controller/store_harness.c LIBS mcmesh_store PkgConfig::SQLITE)
mcmesh_test(test_controller_restart SOURCES unit/controller/restart.c unit/controller/harness.c
	unit/controller/store_harness.c LIBS mcmesh_controller)
mcmesh_test(test_controller_transfer SOURCES unit/controller/transfer.c
	unit/controller/store_harness.c unit/controller/etcd_server.c LIBS mcmesh_controller)
mcmesh_test(test_controller_aside SOURCES unit/controller/aside.c unit/controller/harness.c
	LIBS mcmesh_controller)
mcmesh_test(test_controller_services SOURCES unit/controller/services.c unit/controller/harness.c
	LIBS mcmesh_controller)
mcmesh_test(test_controller_operators
	SOURCES unit/controller/operators.c unit/controller/harness.c LIBS mcmesh_controller)
mcmesh_test(test_controller_feed
	SOURCES unit/controller/feed.c unit/controller/harness.c LIBS mcmesh_controller)
mcmesh_test(test_controller_etcd
	SOURCES unit/controller/etcd.c unit/controller/etcd_server.c LIBS mcmesh_store)
target_compile_definitions(test_controller_etcd PRIVATE SOURCE_DIR="${CMAKE_SOURCE_DIR}")
mcmesh_test(test_controller_shared SOURCES unit/controller/shared.c unit/controller/harness.c
	unit/controller/etcd_server.c LIBS mcmesh_controller)

# Not a test: prints what the controller's log costs at scale.
add_executable(mcmesh-bench-plan EXCLUDE_FROM_ALL bench/plan.c)
target_link_libraries(mcmesh-bench-plan PRIVATE mcmesh_controller)
# Nor this: what keeping it in a file costs.
add_executable(mcmesh-bench-store EXCLUDE_FROM_ALL bench/store.c)
target_link_libraries(mcmesh-bench-store PRIVATE mcmesh_store)
mcmesh_test(test_controller_access
	SOURCES unit/controller/access.c unit/controller/harness.c LIBS mcmesh_controller)
target_compile_definitions(test_controller_access PRIVATE SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# Nor this: what etcd carries.
add_executable(mcmesh-bench-shared EXCLUDE_FROM_ALL bench/shared.c)
target_link_libraries(mcmesh-bench-shared PRIVATE mcmesh_store)
