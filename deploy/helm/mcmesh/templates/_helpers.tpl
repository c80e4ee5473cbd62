{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "mcmesh.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "mcmesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* (list $ COMPONENT): what selects its pods, for ever. */}}
{{- define "mcmesh.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ $.Chart.Name }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "mcmesh.labels" -}}
{{- $ := index . 0 -}}
{{ include "mcmesh.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ $.Chart.Name }}-{{ $.Chart.Version }}
{{- end }}

{{- define "mcmesh.tls" -}}
cacert: /etc/mcmesh/tls/ca.crt
cert: /etc/mcmesh/tls/tls.crt
key: /etc/mcmesh/tls/tls.key
{{- with .Values.tls.serverName }}
server_name: {{ . }}
{{- end }}
{{- end }}

{{/* The Service's name in a certificate is this one. */}}
{{- define "mcmesh.controllerHost" -}}
{{ include "mcmesh.name" . }}-controller.{{ .Release.Namespace }}.svc
{{- end }}

{{/* agent.yaml: of all nodes; where each is, its command line says. */}}
{{- define "mcmesh.agentConfig" -}}
{{- $controllers := .Values.agent.controllers }}
{{- if not $controllers }}
{{- if not .Values.controller.enabled }}
{{- fail "agent.controllers: say where the controllers are, or let controller.enabled be true" }}
{{- end }}
{{- $controllers = list (printf "%s:%d" (include "mcmesh.controllerHost" .) (int .Values.controller.service.port)) }}
{{- end }}
{{- $made := dict
    "controllers" $controllers
    "ports" .Values.agent.ports
    "metrics" (printf "%s:%d" .Values.agent.metrics.address (int .Values.agent.metrics.port)) }}
{{- if .Values.tls.enabled }}
{{- $_ := set $made "tls" (include "mcmesh.tls" . | fromYaml) }}
{{- end }}
{{- mergeOverwrite (deepCopy .Values.agent.config) $made | toYaml }}
{{- end }}

{{- define "mcmesh.controllerConfig" -}}
{{- $v := .Values.controller }}
{{- $made := dict
    "listen" (list (printf "%s:7797" $v.listen))
    "metrics" (printf "%s:9797" $v.listen) }}
{{- if .Values.tls.enabled }}
{{- $_ := set $made "tls" (include "mcmesh.tls" . | fromYaml) }}
{{- else }}
{{- $_ := set $made "insecure" true }}
{{- end }}
{{- if eq $v.store "etcd" }}
{{- if not $v.etcd.endpoints }}
{{- fail "controller.etcd.endpoints: say where etcd is, as HOST:PORT" }}
{{- end }}
{{- $_ := set $made "store" (printf "etcd:%s" (join "," $v.etcd.endpoints)) }}
{{- $etcd := dict "prefix" $v.etcd.prefix }}
{{- if $v.etcd.secret }}
{{- $_ := set $etcd "cacert" "/etc/mcmesh/etcd/ca.crt" }}
{{- $_ := set $etcd "cert" "/etc/mcmesh/etcd/tls.crt" }}
{{- $_ := set $etcd "key" "/etc/mcmesh/etcd/tls.key" }}
{{- end }}
{{- $_ := set $made "etcd" $etcd }}
{{- if .Values.tls.enabled }}
{{- /* Controllers ask each other at addresses of pods, which no certificate has. */}}
{{- $_ := set $made.tls "server_name" (.Values.tls.serverName | default (include "mcmesh.controllerHost" .)) }}
{{- end }}
{{- else }}
{{- $_ := set $made "store" "sqlite:/var/lib/mcmesh/controller.db" }}
{{- end }}
{{- mergeOverwrite (deepCopy $v.config) $made | toYaml }}
{{- end }}

{{/* The pods of controllers are alike, whatever keeps them running. */}}
{{- define "mcmesh.controllerPod" -}}
{{- $v := .Values.controller -}}
metadata:
  labels:
    {{- include "mcmesh.selector" (list . "controller") | nindent 4 }}
    {{- with $v.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "mcmesh.controllerConfig" . | sha256sum }}
    {{- with $v.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mcmesh.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: 15
  securityContext:
    runAsNonRoot: true
    runAsUser: 7797
    runAsGroup: 7797
    fsGroup: 7797
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  containers:
    - name: controller
      image: {{ include "mcmesh.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [/usr/sbin/mcmesh-controller, --config, /etc/mcmesh/controller.yaml]
      ports:
        - { name: grpc, containerPort: 7797, protocol: TCP }
        - { name: metrics, containerPort: 9797, protocol: TCP }
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      # Alive is whose loop answers. A store that makes no progress is no reason to be
      # restarted, only to get no agents.
      livenessProbe:
        httpGet: { path: /, port: metrics }
        initialDelaySeconds: 10
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        {{- if .Values.tls.enabled }}
        # A kubelet's grpc probe has no certificate; the page says the same.
        httpGet: { path: /healthz, port: metrics }
        {{- else }}
        grpc: { port: 7797 }
        {{- end }}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 1
      resources:
        {{- toYaml $v.resources | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/mcmesh/controller.yaml, subPath: controller.yaml, readOnly: true }
        - { name: state, mountPath: /var/lib/mcmesh }
        {{- if .Values.tls.enabled }}
        - { name: tls, mountPath: /etc/mcmesh/tls, readOnly: true }
        {{- end }}
        {{- if and (eq $v.store "etcd") $v.etcd.secret }}
        - { name: etcd-tls, mountPath: /etc/mcmesh/etcd, readOnly: true }
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ include "mcmesh.name" . }}-controller }
    {{- if eq $v.store "etcd" }}
    - name: state
      emptyDir: {}
    {{- end }}
    {{- if .Values.tls.enabled }}
    - name: tls
      secret: { secretName: {{ .Values.tls.controllerSecret }}, defaultMode: 0440 }
    {{- end }}
    {{- if and (eq $v.store "etcd") $v.etcd.secret }}
    - name: etcd-tls
      secret: { secretName: {{ $v.etcd.secret }}, defaultMode: 0440 }
    {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- if $v.affinity }}
    {{- toYaml $v.affinity | nindent 4 }}
    {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "mcmesh.selector" (list . "controller") | nindent 16 }}
    {{- end }}
{{- end }}

{{/* Of all addresses, the loopback one is there for sure. */}}
{{- define "mcmesh.probeHost" -}}
{{- $a := .Values.agent.metrics.address -}}
{{- if or (eq $a "0.0.0.0") (eq $a "[::]") }}127.0.0.1{{ else }}{{ $a | trimPrefix "[" | trimSuffix "]" | quote }}{{ end }}
{{- end }}
