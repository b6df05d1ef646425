<?php
// Verify webhooks of callcast (Standard Webhooks). PHP 8.0 or newer, no dependencies.
//
//     SECRETS=whsec_... php -S 127.0.0.1:8088 verify.php        # a receiver on http://127.0.0.1:8088/

declare(strict_types=1);

const TOLERANCE_S = 300;

/**
 * Return the event. Throws if the signature is invalid.
 *
 * $headers: with lowercase names.
 * $body: the unmodified bytes of the request. JSON that was parsed and serialized again has another signature.
 * $secrets: all valid secrets; two during a rotation.
 */
function verify(array $headers, string $body, array $secrets): array
{
    foreach (['webhook-id', 'webhook-timestamp', 'webhook-signature'] as $name) {
        if (($headers[$name] ?? '') === '') {
            throw new UnexpectedValueException("the header $name is missing");
        }
    }
    $stamp = $headers['webhook-timestamp'];
    if (!ctype_digit($stamp) || abs(time() - (int) $stamp) > TOLERANCE_S) {
        throw new UnexpectedValueException('the timestamp is too old, or from the future');
    }
    $signed = $headers['webhook-id'] . '.' . $stamp . '.' . $body;
    $good = false;
    foreach ($secrets as $secret) {
        $key = base64_decode(preg_replace('/^whsec_/', '', $secret), true);
        if ($key === false) {
            throw new InvalidArgumentException('a secret is not whsec_ and base64');
        }
        $wanted = 'v1,' . base64_encode(hash_hmac('sha256', $signed, $key, true));
        foreach (explode(' ', $headers['webhook-signature']) as $signature) {
            // In constant time.
            $good = hash_equals($wanted, $signature) || $good;
        }
    }
    if (!$good) {
        throw new UnexpectedValueException('no signature matches');
    }
    return json_decode($body, true, 512, JSON_THROW_ON_ERROR);
}

if (PHP_SAPI !== 'cli') {
    $headers = [
        'webhook-id' => $_SERVER['HTTP_WEBHOOK_ID'] ?? '',
        'webhook-timestamp' => $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '',
        'webhook-signature' => $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '',
    ];
    try {
        $event = verify($headers, file_get_contents('php://input'), explode(' ', (string) getenv('SECRETS')));
    } catch (UnexpectedValueException $why) {
        http_response_code(401);
        exit($why->getMessage() . "\n");
    }
    // An event can arrive twice: store $headers['webhook-id'] together with your events.
    error_log($event['type'] . ' ' . json_encode($event['data']));
    http_response_code(204);
}
