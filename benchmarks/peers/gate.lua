-- The gateway's job in nginx's Lua: find the key, ask Redis once, let the call through or refuse it.

local ffi = require "ffi"
local lrucache = require "resty.lrucache"
local found, redis = pcall(require, "resty.redis")
if not found then
    redis = require "nginx.redis" -- Debian's package uses another name
end

-- nginx is linked with OpenSSL already.
ffi.cdef [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *kind, const void *key, int key_length, const unsigned char *text, size_t length,
                    unsigned char *out, unsigned int *out_length);
]]

local settings = settings
local pepper = settings.pepper
local record_prefix = settings.prefix .. ":key:"
local day_prefix = settings.prefix .. ":day:"
local digests = assert(lrucache.new(10000))
local out = ffi.new("unsigned char[64]")
local out_length = ffi.new("unsigned int[1]")

local refusals = { quota = "CallLimit", unknown = "AccessDenied" }

local function digest_of(key)
    local digest = digests:get(key)
    if not digest then
        ffi.C.HMAC(ffi.C.EVP_sha256(), pepper, #pepper, key, #key, out, out_length)
        local raw = ffi.string(out, out_length[0])
        digest = raw:gsub(".", function(byte) return string.format("%02x", byte:byte()) end)
        digests:set(key, digest)
    end
    return digest
end

local function refuse(code)
    ngx.header.content_type = "application/json"
    ngx.say('{"ErrorCode":"', code, '","ErrorDescription":"The call was not allowed."}')
    return ngx.exit(ngx.HTTP_OK)
end

local function key_of_request()
    local key = ngx.var.arg_instanceKey
    if not key and ngx.req.get_method() == "POST" then
        ngx.req.read_body()
        key = ngx.req.get_post_args().instanceKey
    end
    return key
end

local _M = {}

function _M.admit()
    local key = key_of_request()
    if not key then
        return refuse("AccessDenied")
    end
    local digest = digest_of(key)
    local method = ngx.var.uri:match("([^/]+)$") or ""
    local day = ngx.today():gsub("-", "")

    local client = redis:new()
    client:set_timeout(1000) -- older clients know no `set_timeouts`
    local connected = client:connect("127.0.0.1", settings.redis_port)
    if not connected then
        return refuse("NotAvailable")
    end
    local said = client:evalsha(
        settings.sha, 2, record_prefix .. digest, day_prefix .. digest .. ":" .. day, method)
    if not said then
        return refuse("NotAvailable")
    end
    client:set_keepalive(60000, 256)
    if said ~= "ok" then
        return refuse(refusals[said] or "InstanceKeyBan")
    end
end

return _M
