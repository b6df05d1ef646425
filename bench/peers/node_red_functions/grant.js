const job = global.get("job");
return {
  url: job.server + "/restapi/oauth/token",
  headers: {
    "content-type": "application/x-www-form-urlencoded",
    authorization: "Basic " + Buffer.from("app:secret").toString("base64"),
  },
  payload: "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=jwt",
};
